//! Where metrics are served, and how many.

use std::{net::SocketAddr, str::FromStr};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl Listen {
    /// Where they are when nobody says otherwise.
    pub const DEFAULT: &str = "127.0.0.1:9464";

    /// The address, where there is one.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self::At(SocketAddr::from(([127, 0, 0, 1], 9464)))
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
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
    fn the_default_is_what_is_said_of_it() {
        assert_eq!(Listen::DEFAULT.parse::<Listen>().unwrap(), Listen::default());
    }
}
