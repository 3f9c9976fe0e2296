//! The types of values. Each reads itself from text, so that the file and the flags accept the same and say
//! the same when they do not.

use std::{
    fmt,
    marker::PhantomData,
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use super::{
    kubernetes::{Apart, KubeconfigPath, NodeName, NodeZombies},
    metrics::{LabelSetCount, Listen},
    names::Socket,
    remedy::{Grace, MaxPause, PerHolder, PerMinute},
    span::{Span, SpanError},
};
use crate::text::Untrusted;

/// Text that is not a value of the key it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ValueError {
    /// It is no duration.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// It is a duration, but too short or too long.
    #[error("{0} is out of range: write a duration between 100ms and 24h")]
    Age(Span),
    /// It is a duration, but too long.
    #[error("{0} is out of range: write a duration up to 10m")]
    Grace(Span),
    /// It is a duration, but too short or too long for a holder to stand still. As it was written: it may be below what a [`Span`]
    /// shows.
    #[error("{0} is out of range: write a duration between 1ms and 100ms")]
    MaxPause(Untrusted),
    /// It is no number of slots.
    #[error("\"{0}\" is not a number of slots: write \"auto\" or a power of two between {min} and {max}, such as 131072", min = Slots::MIN, max = Slots::MAX)]
    Slots(Untrusted),
    /// It is no number, or too small or too large.
    #[error("\"{value}\" is out of range: write a whole number between {min} and {max}")]
    Count {
        /// What was written.
        value: Untrusted,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// It is no path, or one that depends on where the daemon was started.
    #[error("\"{0}\" is not a path from the root: write one without `..`, such as \"{default}\"", default = PinPath::DEFAULT)]
    Path(Untrusted),
    /// It is no address with a port.
    #[error("\"{0}\" is not an address to listen at: write an IP address with a port, such as \"{usual}\", \"auto\", or \"off\"", usual = Listen::USUAL)]
    Listen(Untrusted),
    /// It is no place where somebody listens.
    #[error("\"{0}\" is not a socket: write \"auto\", \"off\", or its path from the root")]
    Socket(Untrusted),
    /// It is no name of a node.
    #[error("\"{0}\" is not the name of a node: write \"auto\", or a name as `kubectl get nodes` shows it")]
    Node(Untrusted),
    /// It is a duration, but too short or too long between two tellings.
    #[error("{0} is out of range: write a duration between 1s and 24h")]
    Apart(Untrusted),
    /// It is no file of credentials.
    #[error("\"{0}\" is not a kubeconfig: write \"in-cluster\", or its path from the root")]
    Kubeconfig(Untrusted),
    /// It is no part of something.
    #[error(
        "\"{0}\" is not a part of a limit: write whole hundredths between \"1%\" and \"99%\", such as \"20%\""
    )]
    Percent(Untrusted),
    /// It is none of the words.
    #[error("\"{value}\" is not known here: write one of {words}")]
    Word {
        /// What was written.
        value: Untrusted,
        /// What can be written.
        words: &'static str,
    },
}

/// How long a zombie stands before it is reported: 100 ms to 24 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(Duration);

impl Age {
    /// The least. Below it, half of it (when a holder goes on probation) nears the kernel's clock tick.
    pub const MIN: Span = Span(Duration::from_millis(100));
    /// The most.
    pub const MAX: Span = Span(Duration::from_secs(24 * 60 * 60));
    /// What `reaper trace` takes when it is not told.
    pub const TRACE: Self = Self(Duration::from_secs(5));

    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Default for Age {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl FromStr for Age {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let span: Span = text.parse()?;
        if (Self::MIN..=Self::MAX).contains(&span) { Ok(Self(span.0)) } else { Err(ValueError::Age(span)) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(self.0).fmt(f)
    }
}

/// The slots of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    /// As many as the machine can have processes, rounded up to a power of two, at most 131,072.
    #[default]
    Auto,
    /// This many: a power of two between [`Slots::MIN`] and [`Slots::MAX`].
    Count(u32),
}

impl Slots {
    /// The least that can be asked for.
    pub const MIN: u32 = 64;
    /// The most: the largest `pid_max` there is.
    pub const MAX: u32 = 4_194_304;
    /// The most that is taken without being asked: 8 MiB.
    pub const AUTO_MAX: u32 = 131_072;

    /// How many slots to make on a machine with this `kernel.pid_max`.
    #[must_use]
    pub fn resolve(self, pid_max: u32) -> u32 {
        match self {
            Self::Auto => pid_max.clamp(Self::MIN, Self::AUTO_MAX).next_power_of_two(),
            Self::Count(count) => count,
        }
    }
}

impl FromStr for Slots {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse::<u32>() {
            Ok(count) if count.is_power_of_two() && (Self::MIN..=Self::MAX).contains(&count) => {
                Ok(Self::Count(count))
            }
            _ => Err(ValueError::Slots(text.into())),
        }
    }
}

pub(super) fn count(text: &str, min: u32, max: u32) -> Result<u32, ValueError> {
    text.parse().ok().filter(|count| (min..=max).contains(count)).ok_or_else(|| ValueError::Count {
        value: text.into(),
        min,
        max,
    })
}

/// The entries of the map behind the ledger: 16 to 4,194,304.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow(u32);

impl Overflow {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Overflow {
    fn default() -> Self {
        Self(16_384)
    }
}

impl FromStr for Overflow {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        count(text, 16, Slots::MAX).map(Self)
    }
}

/// How many cgroups' paths are kept: 64 to 1,048,576.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheEntries(u32);

impl CacheEntries {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for CacheEntries {
    fn default() -> Self {
        Self(16_384)
    }
}

impl FromStr for CacheEntries {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        count(text, 64, 1_048_576).map(Self)
    }
}

/// How many leak sites are kept: 16 to 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteCount(u32);

impl SiteCount {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for SiteCount {
    fn default() -> Self {
        Self(4_096)
    }
}

impl FromStr for SiteCount {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        count(text, 16, 65_536).map(Self)
    }
}

/// The folder under which maps and links are pinned: a path from the root, in a bpf file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinPath(PathBuf);

impl PinPath {
    /// Where they are when nobody says otherwise.
    pub const DEFAULT: &str = "/sys/fs/bpf/reaper";

    /// The path.
    #[must_use]
    pub fn get(&self) -> &Path {
        &self.0
    }
}

impl Default for PinPath {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl FromStr for PinPath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let path = Path::new(text);
        let mut components = path.components();
        let fits = components.next() == Some(Component::RootDir)
            && path.file_name().is_some()
            && components.all(|component| matches!(component, Component::Normal(_)))
            && !text.contains('\0');
        // Anew from its components: no doubled slash, none at the end.
        if fits { Ok(Self(path.components().collect())) } else { Err(ValueError::Path(text.into())) }
    }
}

/// A closed set of words, read and written by name.
macro_rules! words {
    ($(#[$docs:meta])* $name:ident { $($(#[$variant_docs:meta])* $variant:ident = $word:literal,)+ } $words:literal) => {
        $(#[$docs])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_docs])* $variant,)+ }

        impl $name {
            /// The word for it, in the file and as a flag's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ValueError::Word { value: text.into(), words: $words }),
                }
            }
        }
    };
}

words! {
    /// How events are written.
    Output {
        /// Aligned columns for people.
        #[default]
        Human = "human",
        /// One JSON object a line; `reaper-user/schema/event.schema.json` describes them.
        Json = "json",
    }
    "\"human\" and \"json\""
}

words! {
    /// Whose command lines are taken at exec.
    Cmdlines {
        /// Those of the children of holders on probation; nobody else pays for it.
        #[default]
        Probation = "probation",
        /// Everybody's.
        All = "all",
        /// Nobody's.
        Off = "off",
    }
    "\"probation\", \"all\" and \"off\""
}

words! {
    /// Of whose forks native stacks are taken.
    Natives {
        /// Those of processes in workloads that hold an old zombie.
        #[default]
        Probation = "probation",
        /// Everybody's.
        All = "all",
        /// Nobody's.
        Off = "off",
    }
    "\"probation\", \"all\" and \"off\""
}

words! {
    /// Levels of the log.
    LogLevel {
        /// What stopped working.
        Error = "error",
        /// What an operator should look at: losses, refusals.
        Warn = "warn",
        /// Starts, stops, reloads.
        #[default]
        Info = "info",
        /// What was decided and why.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    "\"error\", \"warn\", \"info\", \"debug\" and \"trace\""
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Reads a value from a TOML string or whole number, by its [`FromStr`].
pub(super) struct FromText<T>(pub(super) PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! deserialize_from_text {
    ($($name:ident)+) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(FromText(PhantomData))
            }
        })+
    };
}

deserialize_from_text!(Age Slots Overflow CacheEntries SiteCount PinPath Output Cmdlines Natives LogLevel PerMinute PerHolder Grace MaxPause
    Listen LabelSetCount Socket NodeZombies NodeName Apart KubeconfigPath);
