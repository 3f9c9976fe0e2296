//! What is counted for metrics as it happens, and how it stands when somebody asks.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use reaper_ebpf::{counter, reap_time::Times, state};

use super::{
    Watch, WatchError,
    headroom::{FailedForks, LimitCounts},
    label_sets::LabelSets,
    labels::{WorkloadLabels, ZombieLabels},
    slow_times::SlowTimes,
};
use crate::{
    kernel::{Kernel, ProgramCost, ReapTimes, boot_now},
    names::{Named, Namer, Names, Requests},
    remedy::Remedy,
    report::{Loss, Outcome},
    workload::Workload,
    zombie::Zombie,
};

/// Zombies of one label set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZombieCounts {
    /// Reported ones that stand.
    pub standing: u64,
    /// Those that were reported.
    pub reported: u64,
    /// Those of them that are gone.
    pub released: u64,
    /// Those of these that went while a remedy was applied to them.
    pub reaped: u64,
}

/// The same, and whose they are.
#[derive(Debug, Default)]
struct Zombies {
    counts: ZombieCounts,
    /// By which its names are asked for; nobody's where there are several.
    workload: Option<Workload>,
}

/// Processes in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Living ones.
    pub alive: u64,
    /// Dead ones that were not reported.
    pub dead: u64,
    /// Reported zombies.
    pub standing: u64,
}

/// Remedies by [`Remedy::ALL`] and [`Outcome::ALL`].
pub type RemedyCounts = [[u64; Outcome::ALL.len()]; Remedy::ALL.len()];

/// How everything stands.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Zombies by label set.
    pub zombies: Vec<(ZombieLabels, ZombieCounts)>,
    /// Zombies that found no place in one.
    pub other_zombies: Option<ZombieCounts>,
    /// How often a zombie found none.
    pub zombies_overflowed: u64,
    /// What people call the workloads of these label sets, as far as that is known.
    pub names: Vec<(WorkloadLabels, Arc<Names>)>,
    /// Questions about names by what became of them.
    pub name_requests: Vec<Requests>,
    /// Processes that died.
    pub born: u64,
    /// The age of the oldest reported zombie that stands.
    pub oldest: Option<Duration>,
    /// How long the dead of the whole machine stood.
    pub times: ReapTimes,
    /// Those that were slow, by whose they are.
    pub times_by_workload: Vec<(WorkloadLabels, Times)>,
    /// Those that found no place there.
    pub other_times: Option<Times>,
    /// How often one found none.
    pub times_overflowed: u64,
    /// Remedies by what came of them.
    pub remedies: RemedyCounts,
    /// Circuit breakers that are open.
    pub breakers: usize,
    /// How workloads that have zombies stand to their nearest limits on processes.
    pub limits: Vec<(WorkloadLabels, LimitCounts)>,
    /// How often one found no place among them.
    pub limits_overflowed: u64,
    /// Refused forks by whose they were,
    pub fork_failures: Vec<(WorkloadLabels, FailedForks)>,
    /// of all others,
    pub other_fork_failures: Option<u64>,
    /// and how often one found no place.
    pub fork_failures_overflowed: u64,
    /// What looking at limits has cost, of a CPU, and how many files were read for it.
    pub headroom_cost: (Duration, u64),
    /// Losses, in the order of [`Loss::ALL`].
    pub losses: [u64; Loss::ALL.len()],
    /// What BPF programs have cost, where the kernel counts it.
    pub programs: Vec<ProgramCost>,
    /// How often the ledger was looked through,
    pub sweeps: u64,
    /// and how long that took, all together.
    pub swept: Duration,
    /// What is in the ledger.
    pub ledger: LedgerCounts,
    /// How many slots it has.
    pub slots: u32,
    /// Bytes that the kernel side's maps take.
    pub kernel_memory: u64,
}

/// What is counted on the way.
#[derive(Debug)]
pub(super) struct Meters {
    zombies: LabelSets<ZombieLabels, Zombies>,
    times: SlowTimes,
    sweeps: u64,
    swept: Duration,
    born: u64,
    label_sets: usize,
    limits_overflowed: u64,
}

impl Meters {
    /// Nothing is counted yet; at most so many label sets are kept of each kind.
    pub(super) fn new(label_sets: usize) -> Self {
        Self {
            zombies: LabelSets::new(label_sets),
            times: SlowTimes::new(label_sets),
            sweeps: 0,
            swept: Duration::ZERO,
            born: 0,
            label_sets,
            limits_overflowed: 0,
        }
    }

    /// A zombie stands, and was `reported` now or by an earlier daemon. Says whether it has a label set of its own, which
    /// [`Self::gone`] wants to know.
    pub(super) fn stands(&mut self, zombie: &Zombie, reported: bool) -> bool {
        let idle = |zombies: &Zombies| zombies.counts.standing == 0;
        let (zombies, own) = self.zombies.count(&ZombieLabels::from(zombie), Instant::now(), idle);
        zombies.counts.standing += 1;
        zombies.counts.reported += u64::from(reported);
        if own && zombies.workload.is_none() {
            zombies.workload = Some(zombie.workload.clone());
        }
        own
    }

    /// One that stood is gone; `reaped` where a remedy was being applied to it.
    pub(super) fn gone(&mut self, zombie: &Zombie, own: bool, reaped: bool) {
        let Zombies { counts, .. } = self.zombies.counted(&ZombieLabels::from(zombie), own, Instant::now());
        counts.standing = counts.standing.saturating_sub(1);
        counts.released += 1;
        counts.reaped += u64::from(reaped);
    }

    /// What people call those that have label sets of their own. Of what has zombies it is asked for, as long as it is not known: no
    /// event may need it any more.
    fn names(&self, namer: &Namer) -> Vec<(WorkloadLabels, Arc<Names>)> {
        let mut names = HashMap::new();
        for (labels, Zombies { workload, counts }) in self.zombies.iter() {
            let Some(workload) = workload.as_ref().filter(|_| !names.contains_key(&labels.of)) else {
                continue;
            };
            let named = if counts.standing > 0 { namer.followed(workload) } else { namer.known(workload) };
            if let Named::As(known) = named {
                names.insert(labels.of.clone(), known);
            }
        }
        names.into_iter().collect()
    }

    /// Those that are nearest to their limits are shown; how often one found no place among them is counted.
    fn place(
        &mut self,
        mut limits: Vec<(WorkloadLabels, LimitCounts)>,
    ) -> Vec<(WorkloadLabels, LimitCounts)> {
        limits.sort_by(|(_, one), (_, other)| one.by_nearness(other));
        self.limits_overflowed += limits.len().saturating_sub(self.label_sets) as u64;
        limits.truncate(self.label_sets);
        limits
    }

    /// The ledger was looked through, which took this long.
    pub(super) fn swept(&mut self, took: Duration) {
        self.sweeps += 1;
        self.swept += took;
    }
}

impl Watch {
    /// Whether the ledger has been compared with the kernel's processes, and what an earlier daemon has reported is taken over.
    pub(super) fn is_settled(&self) -> bool {
        self.books.were_compared() && self.restoring.is_done()
    }

    /// As below, where there is something new.
    pub(super) fn take_new_reap_times(&mut self) -> Result<(), WatchError> {
        if self.describer.kernel.count(counter::SLOW_SUM)? != self.meters.times.seen() {
            self.take_reap_times()?;
        }
        Ok(())
    }

    /// Takes over how long the dead of each cgroup stood, while it can be said whose cgroup it is.
    pub(super) fn take_reap_times(&mut self) -> Result<ReapTimes, WatchError> {
        let kernel = &mut self.describer.kernel;
        let times = kernel.reap_times()?;
        self.meters.times.take(kernel, &mut self.describer.workloads, times.slow);
        Ok(times)
    }

    /// How everything stands.
    pub(super) fn measure(&mut self) -> Result<Measured, WatchError> {
        let now = boot_now();
        let times = self.take_reap_times()?;
        self.take_over_losses();
        self.losses.set(Loss::EventDropped, self.outbox.dropped());
        let limits = self.meters.place(self.headrooms.measured(now));
        let (fork_failures, other_fork_failures, fork_failures_overflowed) = self.headrooms.failures();
        let kernel = &self.describer.kernel;
        let ledger = census(kernel)?;
        let freed = times.prompt + times.slow.buckets.iter().sum::<u64>();
        let meters = &mut self.meters;
        // One that is freed between the two readings is in neither, until the next time.
        meters.born = meters.born.max(freed + ledger.dead + ledger.standing);
        let Meters { zombies, times: slow, sweeps, swept, born, label_sets: _, limits_overflowed } =
            &self.meters;
        Ok(Measured {
            zombies: zombies
                .iter()
                .map(|(labels, Zombies { counts, .. })| (labels.clone(), *counts))
                .collect(),
            other_zombies: zombies.others().map(|others| others.counts),
            zombies_overflowed: zombies.overflowed(),
            names: self.meters.names(&self.describer.names),
            name_requests: self.describer.names.requests(),
            born: *born,
            oldest: self.standing.oldest(now),
            times,
            times_by_workload: slow.by_workload(),
            other_times: slow.others(),
            times_overflowed: slow.overflowed() + times.unplaced,
            remedies: *self.remedies.counts(),
            breakers: self.remedies.open_breakers(now).len(),
            limits,
            limits_overflowed: *limits_overflowed,
            fork_failures,
            other_fork_failures,
            fork_failures_overflowed,
            headroom_cost: self.headrooms.cost(),
            losses: self.losses.totals(kernel)?,
            programs: kernel.program_costs(),
            sweeps: *sweeps,
            swept: *swept,
            ledger,
            slots: kernel.slots(),
            kernel_memory: kernel.memory(),
        })
    }
}

fn census(kernel: &Kernel) -> Result<LedgerCounts, WatchError> {
    let counts = [const { Cell::new(0) }; 4];
    let count = |state: u64| {
        if let Some(count) = usize::try_from(state).ok().and_then(|state| counts.get(state)) {
            count.set(count.get() + 1);
        }
        false
    };
    kernel.each(count, |_| {})?;
    let of = |state: u64| usize::try_from(state).map_or(0, |state| counts[state].get());
    Ok(LedgerCounts { alive: of(state::ALIVE), dead: of(state::DEAD), standing: of(state::STANDING) })
}

#[cfg(test)]
mod tests {
    use std::{io, os::unix::net::UnixListener};

    use super::*;
    use crate::{names, report::fixture};

    #[test]
    fn a_zombie_that_was_told_of_by_an_earlier_daemon_stands_and_is_not_reported_again() {
        let mut meters = Meters::new(16);
        let zombie = fixture::never_waited();
        let owns = [true, false].map(|reported| meters.stands(&zombie, reported));
        assert_eq!(owns, [true, true]);
        meters.gone(&zombie, true, true);
        let counts: Vec<_> = meters.zombies.iter().map(|(_, zombies)| zombies.counts).collect();
        assert_eq!(counts, [ZombieCounts { standing: 1, reported: 1, released: 1, reaped: 1 }]);
    }

    #[test]
    fn names_of_what_has_zombies_are_asked_for_and_of_what_has_none_any_more_only_shown() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let nobody = Vec::new;
        let settings =
            names::Settings { docker: vec![socket], cri: nobody(), podman: nobody(), systemd: nobody() };
        let namer = Namer::start(settings).unwrap();
        let mut meters = Meters::new(16);
        let [gone, stands] = ["b", "a"].map(|digit| {
            let mut zombie = fixture::never_waited();
            (zombie.workload.kind, zombie.workload.runtime) = (crate::workload::Kind::Container, None);
            zombie.workload.id = Some(digit.repeat(64).as_str().into());
            zombie
        });
        let own = meters.stands(&gone, false);
        meters.gone(&gone, own, false);
        assert_eq!(meters.names(&namer), []);
        meters.stands(&stands, false);
        assert_eq!(meters.names(&namer), []);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut asked = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        };
        // One is asked after the other, in turn.
        let mut head = [0; 20];
        io::Read::read_exact(&mut asked, &mut head).unwrap();
        assert_eq!(String::from_utf8_lossy(&head), "GET /containers/aaaa");
    }

    #[test]
    fn the_nearest_to_their_limits_have_a_place_and_who_has_none_is_counted_each_time() {
        let mut meters = Meters::new(2);
        let limits: Vec<_> = [0.5, 0.1, 0.9]
            .map(|free| {
                let mut workload = fixture::never_waited().workload;
                workload.id = Some(free.to_string().as_str().into());
                let counts = LimitCounts { limit: Some(10), used: 9, zombies: 3, free, exhaustion: None };
                (WorkloadLabels::from(&workload), counts)
            })
            .into();
        let mut counted = Vec::new();
        for looked_at in [&limits[..], &limits[..], &limits[..1]] {
            let shown = meters.place(looked_at.to_vec());
            let shown: Vec<_> = shown.iter().map(|(_, counts)| counts.free).collect();
            counted.push((shown, meters.limits_overflowed));
        }
        // What was counted once stays counted.
        assert_eq!(counted, [(vec![0.1, 0.5], 1), (vec![0.1, 0.5], 2), (vec![0.5], 2)]);
    }
}
