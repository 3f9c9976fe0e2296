//! From a ledger entry and what stands around it to a zombie with its workload, cause and evidence.

use std::{collections::HashMap, sync::Arc};

use reaper_ebpf::{Record, flag, id, state};

use super::{
    copies::Copies,
    holders::{Holder, Holders, Numbers},
};
use crate::{
    cause::{self, Facts},
    identity::{BootTime, Identity},
    kernel::{Clock, Kernel, KernelError, boot_now},
    names::Namer,
    observe::Scene,
    origin::Stacks,
    proc::{Proc, Seen, shown_cmdline, ticks},
    workload::Workloads,
    zombie::{Died, ExitStatus, Forker, Gone, Relation, Zombie},
};

/// What a zombie is described from.
pub(crate) struct Describer {
    pub(crate) kernel: Kernel,
    pub(crate) clock: Clock,
    pub(crate) workloads: Workloads,
    pub(crate) proc: Proc,
    pub(crate) names: Namer,
    pub(super) holders: Holders,
    pub(super) copies: Copies,
    /// First processes of pid namespaces that are dead, by the namespace's inode number.
    pub(super) dead_inits: HashMap<u32, Identity>,
    /// The v1 cgroups of zombies, by identity bits, where there is a v1 hierarchy: from the latest pass.
    v1_cgroups: HashMap<u64, u64>,
    started: BootTime,
    /// Stacks at forks, where they are taken.
    pub(super) stacks: Option<Stacks>,
}

impl Describer {
    /// Nothing is known yet.
    pub(crate) fn new(kernel: Kernel, clock: Clock, workloads: Workloads, proc: Proc) -> Self {
        Self {
            kernel,
            clock,
            workloads,
            proc,
            names: Namer::default(),
            holders: Holders::default(),
            copies: Copies::default(),
            dead_inits: HashMap::new(),
            v1_cgroups: HashMap::new(),
            started: boot_now(),
            stacks: None,
        }
    }

    /// With what people call workloads.
    pub(crate) fn named_by(self, names: Namer) -> Self {
        Self { names, ..self }
    }

    /// With the stacks that are taken at forks.
    pub(super) fn with(self, stacks: Option<Stacks>) -> Self {
        Self { stacks, ..self }
    }

    /// Everything that is known about a zombie.
    pub(crate) fn describe(&mut self, record: &Record, scene: &Scene, now: BootTime) -> Zombie {
        let Scene { zombie: seen, holder, forker, ancestors: _, tracer: _ } = scene;
        let identity = Identity::of(record);
        let holder_seen = holder.seen.as_ref().map(|(seen, _)| seen);
        let recorded = self.holder(record, holder.pid, holder_seen);
        let watched = self.holders.get(holder.pid, holder_seen);
        let numbers = Numbers { pid: identity.pid, group: seen.group, start: identity.start };
        let facts = Facts {
            holder: recorded,
            at_probation: watched.map(Holder::look),
            waits: watched.and_then(|watched| watched.waits(holder.pid, numbers, now, &self.kernel)),
            namespace_init: self.dead_inits.get(&record.pid_ns).copied(),
        };
        let (cause, evidence) = cause::judge(record, scene, &facts);
        let start = recorded.map(|holder| BootTime(holder.start));
        let holder_party = cause::party(holder.pid, holder.seen.as_ref(), start);
        let forker = self.kernel.forker_of(record).map(|identity| match forker {
            None => Forker { party: holder_party.clone(), relation: Relation::Holder },
            Some(forker) => Forker {
                party: cause::party(forker.pid, forker.seen.as_ref(), Some(identity.start)),
                relation: if forker.seen.is_some() { Relation::Other } else { Relation::Gone },
            },
        });
        let died = self.died(record);
        let ns_pid = holder_seen
            .and_then(|holder| holder.ns_pids.len().checked_sub(1))
            .and_then(|level| seen.ns_pids.get(level).copied())
            // It is 0 once the zombie is being released.
            .filter(|pid| *pid != 0);
        let [v2, v1] = self.cgroups(record);
        let mut workload = self.workloads.of(v2, v1);
        if workload.cgroup.is_none()
            && let Ok(text) = std::fs::read(self.proc.root().join(format!("{}/cgroup", identity.pid)))
        {
            workload = self.workloads.from_proc(&text, false);
        }
        Zombie {
            identity,
            ns_pid,
            comm: seen.comm.clone(),
            cmdline: self.kernel.cmdline(record.id()).map(|(line, cut)| shown_cmdline(&line, cut)),
            died,
            exit: ExitStatus::from_wait(record.status),
            holder: holder_party,
            forker,
            cause,
            evidence,
            named: self.names.of(&workload),
            workload,
            origin: Some(self.origin(record, scene)),
            predates: self.predates(record),
            recovered: record.flags & flag::RECOVERED != 0,
        }
    }

    /// What is known of a zombie that went before this daemon had seen it.
    pub(super) fn describe_gone(&mut self, record: &Record) -> Gone {
        let [v2, v1] = self.cgroups(record);
        let workload = self.workloads.of(v2, v1);
        Gone {
            identity: Identity::of(record),
            died: self.died(record),
            exit: ExitStatus::from_wait(record.status),
            named: self.names.of(&workload),
            workload,
            predates: self.predates(record),
        }
    }

    fn predates(&self, record: &Record) -> bool {
        // A moment is up to a tick too late.
        record.flags & flag::PREDATES_EXIT != 0
            && self.died(record).moment() <= self.started.plus(self.clock.tick())
    }

    fn died(&self, record: &Record) -> Died {
        let moment = self.clock.moment(record.exit_stamp);
        match (record.flags & flag::PREDATES_EXIT != 0, moment.exact) {
            (true, _) => Died::Before(moment.at),
            (false, true) => Died::At(moment.at),
            (false, false) => Died::About(moment.at),
        }
    }

    /// Has the names of a zombie's workload asked for, so that they are there when it is reported. What a v1 hierarchy would tell is
    /// not known before that.
    pub(super) fn name_ahead(&mut self, record: &Record) {
        let [v2, v1] = self.cgroups(record);
        if v2 != 0 {
            let workload = self.workloads.of(v2, v1);
            // What is known by now is of no use yet.
            let _early = self.names.of(&workload);
        }
    }

    /// The first processes of all pid namespaces, as the ledger knows them.
    pub(crate) fn namespace_inits(&self) -> Result<Arc<[Identity]>, KernelError> {
        let mut inits = Vec::new();
        self.kernel.each(
            |state| state == state::ALIVE,
            |record| {
                if record.flags & flag::NAMESPACE_INIT != 0 {
                    inits.push(Identity::of(&record));
                }
            },
        )?;
        Ok(inits.into())
    }

    /// Looks up the v1 cgroups of all zombies, in one pass over the kernel's tasks. Nothing to do without v1.
    pub(super) fn look_up_v1(&mut self) -> Result<(), KernelError> {
        if self.workloads.cgroups().v1_pids_number().is_some() {
            let zombies = self.kernel.zombies()?;
            self.v1_cgroups = zombies.iter().map(|zombie| (zombie.id(), zombie.cgroup_v1)).collect();
        }
        Ok(())
    }

    /// The same, where one of these is not known from an earlier pass.
    pub(super) fn look_up_v1_of(&mut self, records: &[Record]) -> Result<(), KernelError> {
        if records.iter().all(|record| self.v1_cgroups.contains_key(&record.id())) {
            return Ok(());
        }
        self.look_up_v1()
    }

    /// The cgroups it died in, in v2 and in v1's pids hierarchy.
    pub(super) fn cgroups(&self, record: &Record) -> [u64; 2] {
        // A record of the census has it, one of the ledger has not.
        let v1 =
            if record.cgroup_v1 == 0 { self.v1_cgroups.get(&record.id()) } else { Some(&record.cgroup_v1) };
        [record.cgroup_v2, v1.copied().unwrap_or(0)]
    }

    /// The ledger's record of the holder: the parent at fork, where it is that still, else whoever has the pid now.
    fn holder(&self, record: &Record, pid: u32, seen: Option<&Seen>) -> Option<Record> {
        let same = |start: u64| seen.is_none_or(|seen| seen.start_ticks == ticks(BootTime(start)));
        let parent = (record.parent_tgid == pid && same(record.parent_start))
            .then(|| self.kernel.record(id(record.parent_tgid, record.parent_start)));
        parent.flatten().or_else(|| {
            let found = self.kernel.process(pid, same);
            found.inspect_err(|error| tracing::warn!(%error, "looking for a holder's entry")).ok().flatten()
        })
    }
}
