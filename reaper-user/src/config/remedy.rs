//! The table `[remedy]`: what holds for all rules.

use std::{fmt, str::FromStr, time::Duration};

use serde::Deserialize;

use super::{
    span::Span,
    value::{ValueError, count},
};

/// What holds for all remedies, whichever rule asks for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Remedies {
    /// Whether it is only said what would be done.
    pub dry_run: bool,
    /// Whether nothing is done although there are rules.
    pub paused: bool,
    /// Remedies a minute on the whole machine.
    pub per_minute: PerMinute,
    /// Remedies a minute for one holder.
    pub per_holder: PerHolder,
    /// From SIGTERM to SIGKILL.
    pub grace: Grace,
    /// How long a holder may stand still at once.
    pub max_pause: MaxPause,
}

/// Remedies a minute on the whole machine: 1 to 6,000. One remedy is one act on one holder, for up to 256 of its zombies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMinute(u32);

/// Remedies a minute for one holder: 1 to 600.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerHolder(u32);

/// From SIGTERM to SIGKILL: 0 to 10 minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(Duration);

/// How long a holder may stand still at once while it is made to wait for zombies: 1 ms to 100 ms. The zombies of one stop are as
/// many as take half of it, so that one stop in a hundred may be twice as slow as the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPause(Duration);

impl PerMinute {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl PerHolder {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Grace {
    /// The most.
    const MAX: Duration = Duration::from_secs(600);

    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl MaxPause {
    /// The least. A stop for a single zombie takes a good part of it on a slow machine.
    const MIN: Duration = Duration::from_millis(1);
    /// The most. What a person notices is not for a remedy.
    const MAX: Duration = Duration::from_millis(100);

    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Default for PerMinute {
    fn default() -> Self {
        Self(60)
    }
}

impl Default for PerHolder {
    fn default() -> Self {
        Self(12)
    }
}

impl Default for Grace {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl Default for MaxPause {
    fn default() -> Self {
        Self(Duration::from_millis(2))
    }
}

impl FromStr for PerMinute {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        count(text, 1, 6_000).map(Self)
    }
}

impl FromStr for PerHolder {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        count(text, 1, 600).map(Self)
    }
}

impl FromStr for Grace {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Span(span) = text.parse()?;
        if span <= Self::MAX { Ok(Self(span)) } else { Err(ValueError::Grace(Span(span))) }
    }
}

impl FromStr for MaxPause {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Span(span) = text.parse()?;
        if (Self::MIN..=Self::MAX).contains(&span) {
            Ok(Self(span))
        } else {
            Err(ValueError::MaxPause(text.into()))
        }
    }
}

impl fmt::Display for MaxPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(self.0).fmt(f)
    }
}

impl fmt::Display for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(self.0).fmt(f)
    }
}
