//! Why a remedy is not applied: a reason for every no.

use std::{fmt, time::Duration};

use crate::{config::Span, remedy::Protected, zombie::Cause};

/// Why a remedy is not applied to a zombie now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Remedies are paused.
    Paused,
    /// The holder is one of those that are never touched.
    Protected(Protected),
    /// The workload says by its environment that it is to be left alone.
    OptedOut,
    /// Whether it says so could not be read.
    OptOutUnknown,
    /// What its container runtime calls the workload is not known yet: whether the rule means it, or a label opts it out.
    NamesUnknown,
    /// There is no holder any more.
    HolderGone,
    /// The remedy does not help against this cause.
    Cause(Cause),
    /// The rule must name this cause and say `parent_may_miss_status`.
    NeedsConsent(Cause),
    /// The holder was not watched, so that nothing is known of its waits.
    NotWatched,
    /// The holder was seen waiting for any child: it may still take the status.
    WaitSeen,
    /// The holder was seen waiting for this pid or group.
    AwaitedByNumber(u32),
    /// The holder was seen making several waits for one pid or group, of which only the latest is known.
    WaitsUnclear,
    /// How long the holder takes to wait for its children is not known.
    ReapTimeUnknown,
    /// The holder took so long for another child, and this one is not much older.
    MayStillWait {
        /// The longest time that it took.
        longest: Duration,
        /// The age from which on that is long past.
        from: Duration,
    },
    /// Its number in the holder's pid namespace is not known.
    PidUnknown,
    /// SIGCHLD would be of no use: the holder neither handles nor fetches it.
    NotHeeded,
    /// The holder is the first process of a container, and the rule does not say `may_end_container`.
    ContainerInit,
    /// The holder is in another workload than the zombie, which the rule need not mean.
    OtherWorkload,
    /// As many remedies as are allowed were applied lately.
    Limited(Limit),
    /// The circuit breaker is open.
    Tripped(Scope),
    /// It is not the process that was looked at.
    IdentityChanged,
    /// It is no zombie any more.
    NoZombie,
    /// Another process is applying remedies.
    Busy,
    /// It was taken back before it was done: the rules have changed, or a circuit breaker has opened.
    Withdrawn,
    /// What is called upon to do it says no: its word for it, and why.
    Hand {
        /// One word, as in JSON.
        word: &'static str,
        /// A sentence.
        message: String,
    },
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// That of the machine.
    Machine,
    /// That of one holder.
    Holder,
    /// That of the rule.
    Rule,
    /// That there is one remedy at a time for one holder.
    AtOnce,
}

/// What a circuit breaker stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All that the rule does.
    Rule,
    /// All that is done to one holder.
    Holder,
}

impl Scope {
    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Holder => "holder",
        }
    }
}

impl Refusal {
    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Protected(_) => "protected",
            Self::OptedOut => "opted-out",
            Self::OptOutUnknown => "opt-out-unknown",
            Self::NamesUnknown => "names-unknown",
            Self::HolderGone => "holder-gone",
            Self::Cause(_) => "cause",
            Self::NeedsConsent(_) => "needs-consent",
            Self::NotWatched => "not-watched",
            Self::WaitSeen => "wait-seen",
            Self::AwaitedByNumber(_) => "awaited-by-number",
            Self::WaitsUnclear => "waits-unclear",
            Self::ReapTimeUnknown => "reap-time-unknown",
            Self::MayStillWait { .. } => "may-still-wait",
            Self::PidUnknown => "pid-unknown",
            Self::NotHeeded => "not-heeded",
            Self::ContainerInit => "container-init",
            Self::OtherWorkload => "other-workload",
            Self::Limited(Limit::Machine) => "limited",
            Self::Limited(Limit::Holder) => "limited-holder",
            Self::Limited(Limit::Rule) => "limited-rule",
            Self::Limited(Limit::AtOnce) => "limited-at-once",
            Self::Tripped(Scope::Rule) => "breaker-rule",
            Self::Tripped(Scope::Holder) => "breaker-holder",
            Self::IdentityChanged => "identity-changed",
            Self::NoZombie => "no-zombie",
            Self::Busy => "busy",
            Self::Withdrawn => "withdrawn",
            Self::Hand { word, .. } => word,
        }
    }

    /// True where it depends on what the holder is seen to wait for.
    #[must_use]
    pub const fn is_about_waits(&self) -> bool {
        matches!(
            self,
            Self::NotWatched
                | Self::WaitSeen
                | Self::AwaitedByNumber(_)
                | Self::WaitsUnclear
                | Self::ReapTimeUnknown
                | Self::MayStillWait { .. }
        )
    }

    /// True where it stands against all zombies of the holder alike, for a time.
    #[must_use]
    pub const fn is_about_all(&self) -> bool {
        matches!(self, Self::Limited(_) | Self::Tripped(_))
    }

    /// True where it is only a matter of time, and nothing that an operator need hear of.
    #[must_use]
    pub const fn is_delay(&self) -> bool {
        matches!(self, Self::Limited(_) | Self::Busy | Self::Withdrawn)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("remedies are paused (remedy.paused)"),
            Self::Protected(protected) => write!(f, "the holder is protected: {protected}"),
            Self::OptedOut => write!(
                f,
                "the workload has opted out ({}=off in its environment, or the label {} \"off\")",
                crate::remedy::OPT_OUT,
                crate::names::OPT_OUT_LABEL
            ),
            Self::OptOutUnknown => {
                f.write_str("the holder's environment could not be read, and it may have opted out there")
            }
            Self::HolderGone => f.write_str("the holder is gone"),
            Self::Cause(cause) => write!(f, "it is {}, against which this does not help", cause.as_str()),
            Self::NeedsConsent(cause) => write!(
                f,
                "it is {}: reaped only by a rule that names this cause and says parent_may_miss_status = true",
                cause.as_str()
            ),
            Self::NotWatched => f.write_str("the holder's wait calls were not watched"),
            Self::WaitSeen => {
                f.write_str("the holder was seen waiting for any child, and may still take the status itself")
            }
            Self::AwaitedByNumber(number) => {
                write!(f, "the holder was seen waiting for {number}, which is its pid or its process group")
            }
            Self::WaitsUnclear => f.write_str(
                "the holder was seen making several waits for one pid or group, of which only the latest is known",
            ),
            Self::ReapTimeUnknown => {
                f.write_str("the holder was not watched long enough to know how long it takes to wait for a child")
            }
            Self::MayStillWait { longest, from } => write!(
                f,
                "the holder took up to {} to wait for a child: only at an age of {} is that long past",
                Span(*longest),
                Span(*from)
            ),
            Self::NamesUnknown => f.write_str(
                "its container runtime has not said yet what it calls the workload: whether a rule means it, or a label opts it \
                 out",
            ),
            Self::PidUnknown => f.write_str("its pid in the holder's namespace is not known"),
            Self::NotHeeded => f.write_str("the holder neither handles SIGCHLD nor fetches it"),
            Self::ContainerInit => f.write_str(
                "the holder is the first process of a container: ended only by a rule that says may_end_container = true",
            ),
            Self::OtherWorkload => f.write_str(
                "the holder is not in the zombie's workload, which is the one that the rule means",
            ),
            Self::Limited(Limit::Machine) => f.write_str("as many remedies as remedy.per_minute allows were applied"),
            Self::Limited(Limit::Holder) => {
                f.write_str("as many remedies as remedy.per_holder allows were applied to this holder")
            }
            Self::Limited(Limit::Rule) => f.write_str("as many remedies as the rule allows a minute were applied"),
            Self::Limited(Limit::AtOnce) => {
                f.write_str("something is being done to this holder already, and what came of it is seen first")
            }
            Self::Tripped(Scope::Rule) => f.write_str("the circuit breaker has stopped this rule"),
            Self::Tripped(Scope::Holder) => f.write_str("the circuit breaker has stopped it for this holder"),
            Self::IdentityChanged => f.write_str("the pid is another process's by now"),
            Self::NoZombie => f.write_str("it is no zombie any more"),
            Self::Busy => f.write_str("another process applies remedies at this moment"),
            Self::Withdrawn => f.write_str(
                "it was taken back before it was done: the rules were read again, or a circuit breaker has opened",
            ),
            Self::Hand { message, .. } => f.write_str(message),
        }
    }
}
