//! Where metrics are served, and how many.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::Deserialize;

use super::value::{ValueError, count};

/// Metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where they are served.
    pub listen: Listen,
    /// How many label sets one of them has, at most.
    pub label_sets: LabelSetCount,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// At the usual address, where that is free: other exporters use it, too, and nobody has asked for it.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// At this address, or the daemon does not start.
    At(SocketAddr),
}

impl Listen {
    /// The usual address.
    pub const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

    /// The address, where there is one.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Auto => Some(Self::USUAL),
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| ValueError::Listen(text.into())),
        }
    }
}

/// How many label sets a metric has, at most: 16 to 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelSetCount(u32);

impl LabelSetCount {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for LabelSetCount {
    fn default() -> Self {
        Self(1_000)
    }
}

impl FromStr for LabelSetCount {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        count(text, 16, 65_536).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_address_that_is_asked_for_is_another_wish_than_none() {
        let asked: Listen = Listen::USUAL.to_string().parse().unwrap();
        assert_eq!(asked, Listen::At(Listen::USUAL));
        assert_eq!("auto".parse::<Listen>().unwrap(), Listen::default());
        assert_eq!(
            (asked.address(), Listen::default().address()),
            (Some(Listen::USUAL), Some(Listen::USUAL))
        );
    }
}
