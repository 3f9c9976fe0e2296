//! Rules: whom they mean, and what is done when.

use std::time::Duration;

use super::Pattern;
use crate::{
    names::{Named, Names},
    remedy::Remedy,
    text::Untrusted,
    workload::Kind,
    zombie::{Cause, Zombie},
};

/// A rule. The first that matches a zombie decides what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is called in events; its place (`rule[2]`) where it has no name.
    pub name: Untrusted,
    /// Whom it means.
    pub when: Match,
    /// What is done, the weakest first.
    pub steps: Vec<Step>,
    /// That a status may be missed by a parent that may still ask for it.
    pub parent_may_miss_status: bool,
    /// That a timed wait of the holder may end early with EINTR, as when a debugger is attached.
    pub allow_interrupted_wait: bool,
    /// That `terminate-holder` may end the first process of a container, and the container with it.
    pub may_end_container: bool,
    /// Remedies that are applied by it a minute, at most.
    pub per_minute: Option<u32>,
}

/// What is done at which age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub remedy: Remedy,
    /// The age from which on.
    pub after: Duration,
    /// Also before that age, where less than this part of a limit on processes is left to the zombie's workload.
    pub headroom_below: Option<Percent>,
}

/// A part of a limit: 1 to 99 hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// So many hundredths; `None` where that is nothing, or all.
    #[must_use]
    pub const fn new(hundredths: u8) -> Option<Self> {
        if matches!(hundredths, 1..=99) { Some(Self(hundredths)) } else { None }
    }

    /// The part, 0 to 1.
    #[must_use]
    pub fn part(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// Whom a rule means. Of several values of one key any must fit, of several keys each; what is empty fits all. Who lacks
/// what is asked for (no unit, no container) is not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Kinds of workload.
    pub kinds: Vec<Kind>,
    /// UIDs of pods.
    pub pods: Vec<Pattern>,
    /// Ids of containers and machines.
    pub containers: Vec<Pattern>,
    /// Names of systemd units.
    pub units: Vec<Pattern>,
    /// Paths of cgroups.
    pub cgroups: Vec<Pattern>,
    /// Causes.
    pub causes: Vec<Cause>,
    /// Paths of the holder's executable.
    pub executables: Vec<Pattern>,
    /// The holder's user ids, as the initial user namespace numbers them.
    pub uids: Vec<u32>,
    /// Kubernetes namespaces.
    pub namespaces: Vec<Pattern>,
    /// Labels of the pod or container: each must be there, with any of these values.
    pub labels: Vec<(Untrusted, Vec<Pattern>)>,
    /// The least age.
    pub age: Option<Duration>,
}

/// Whether a rule means a zombie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It asks for names, and those of the workload were asked for and are not known yet. Which rule is the first that matches cannot
    /// be said before that.
    NotYet,
}

/// What of a holder a rule may ask about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The path of its executable; `None` where that could not be read.
    pub executable: Option<&'a Untrusted>,
    /// Its user id.
    pub uid: Option<u32>,
}

impl Match {
    /// Whether the zombie is meant, whatever its age.
    #[must_use]
    pub fn fits(&self, zombie: &Zombie, subject: Subject<'_>) -> Fit {
        let Self {
            kinds,
            pods,
            containers,
            units,
            cgroups,
            causes,
            executables,
            uids,
            namespaces,
            labels,
            age: _,
        } = self;
        let workload = &zombie.workload;
        let container = workload
            .id
            .as_ref()
            .filter(|_| matches!(workload.kind, Kind::Pod | Kind::Container | Kind::Machine));
        let fits = any(kinds, |kind| *kind == workload.kind)
            && any_text(pods, workload.pod_uid.as_ref())
            && any_text(containers, container)
            && any_text(units, workload.unit.as_ref())
            && any_text(cgroups, workload.cgroup.as_ref())
            && any(causes, |cause| *cause == zombie.cause)
            && any_text(executables, subject.executable)
            && any(uids, |uid| Some(*uid) == subject.uid);
        let fits_names = |names: &Names| {
            let value =
                |key: &Untrusted| names.labels.iter().find(|(own, _)| own == key).map(|(_, value)| value);
            any_text(namespaces, names.namespace.as_ref())
                && labels.iter().all(|(key, wanted)| any_text(wanted, value(key)))
        };
        match &zombie.named {
            _ if !fits => Fit::No,
            _ if namespaces.is_empty() && labels.is_empty() => Fit::Yes,
            Named::Pending => Fit::NotYet,
            named if named.names().is_some_and(fits_names) => Fit::Yes,
            _ => Fit::No,
        }
    }

    /// True where no pattern of it names anything: its kinds, users, causes and ages are those of half a machine.
    #[must_use]
    pub fn names_nobody(&self) -> bool {
        let Self { pods, containers, units, cgroups, executables, namespaces, labels, .. } = self;
        ![pods, containers, units, cgroups, executables, namespaces]
            .into_iter()
            .chain(labels.iter().map(|(_, values)| values))
            .any(|patterns| !patterns.is_empty() && !patterns.iter().any(Pattern::is_everything))
    }

    /// True where it names the holder's program by its whole path.
    #[must_use]
    pub fn names_the_program(&self) -> bool {
        !self.executables.is_empty() && self.executables.iter().all(Pattern::is_literal)
    }
}

impl Rule {
    /// The step with this remedy, if it has one.
    #[must_use]
    pub fn step(&self, remedy: Remedy) -> Option<&Step> {
        self.steps.iter().find(|step| step.remedy == remedy)
    }

    /// Whether a step of it, from this one on, is due whatever the age, because so little is left.
    #[must_use]
    pub fn is_hurried(&self, from: usize, free: Option<f64>) -> bool {
        self.steps.iter().skip(from).any(|step| step.is_hurried(free))
    }

    /// The age from which on its zombies are reported, where the rule says one: later than all others'.
    #[must_use]
    pub fn reports_after(&self) -> Option<Duration> {
        self.step(Remedy::Report).map(|step| step.after)
    }

    /// Whether `other`, of another configuration, is the same rule: for the same zombies, with the same steps and consents. A name
    /// may be its place alone, and another limit is one to what it has used.
    #[must_use]
    pub fn is_still(&self, other: &Self) -> bool {
        let Self {
            name: _,
            when,
            steps,
            parent_may_miss_status,
            allow_interrupted_wait,
            may_end_container,
            per_minute: _,
        } = self;
        *when == other.when
            && *steps == other.steps
            && *parent_may_miss_status == other.parent_may_miss_status
            && *allow_interrupted_wait == other.allow_interrupted_wait
            && *may_end_container == other.may_end_container
    }

    /// True where it does more than report.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.steps.iter().any(|step| step.remedy != Remedy::Report)
    }
}

impl Step {
    /// Whether it is due whatever the age, because this part at most is left of a limit on processes.
    #[must_use]
    pub fn is_hurried(&self, free: Option<f64>) -> bool {
        self.headroom_below.zip(free).is_some_and(|(below, free)| free < below.part())
    }
}

fn any<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

fn any_text(wanted: &[Pattern], text: Option<&Untrusted>) -> bool {
    any(wanted, |pattern| text.is_some_and(|text| pattern.matches(text)))
}
