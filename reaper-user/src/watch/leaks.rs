//! Leak sites: each zombie that is reported counts at one, until it is released.

use jiff::Timestamp;

use super::Watch;
use crate::{
    identity::BootTime,
    origin::{Leak, Moment},
    zombie::Zombie,
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
