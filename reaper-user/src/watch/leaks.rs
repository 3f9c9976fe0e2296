//! Leak sites: each zombie that is reported counts at one, until it is released.

use jiff::Timestamp;
use reaper_ebpf::{Record, flag};

use super::Watch;
use crate::{
    identity::{BootTime, Identity},
    origin::{Leak, Link, Moment, Origin, Quality},
    zombie::{Forker, Relation, Zombie},
};

impl Watch {
    /// A zombie stands and has been told of.
    pub(super) fn count_leak(&mut self, id: u64, zombie: &Zombie, now: BootTime) {
        if let Some(origin) = &zombie.origin {
            let leak = Leak { zombie: id, comm: &zombie.comm, origin, workload: &zombie.workload };
            self.sites.add(leak, moment(now));
        }
    }
}

/// A moment of the boot clock that is now, on both clocks.
pub(super) fn moment(now: BootTime) -> Moment {
    Moment { boot: now, wall: Timestamp::now() }
}

/// What the ledger alone knows of where a zombie comes from: its forker.
pub(super) fn lineage(record: &Record, forker: Option<&Forker>) -> Origin {
    let unseen = record.flags & flag::PREDATES_FORK != 0;
    let link = |Forker { party, relation }: &Forker| Link {
        process: Identity { pid: party.pid, start: party.start.unwrap_or_default() },
        comm: party.comm.clone().unwrap_or_else(|| "?".into()),
        cmdline: party.cmdline.clone(),
        alive: *relation != Relation::Gone,
    };
    Origin {
        quality: if unseen { Quality::Predates } else { Quality::LineageOnly },
        chain: forker.map(link).into_iter().collect(),
        stack: None,
        stack_of: None,
    }
}
