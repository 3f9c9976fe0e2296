//! Workloads on probation: what holds a zombie that nobody waits for will leak more of them, and native stacks of its forks are
//! taken from then on.

use std::{collections::HashMap, time::Duration};

use crate::{identity::BootTime, kernel::Kernel};

/// Those without another old zombie for so long are no longer looked at. A slow leak is one as well.
const KEEP: Duration = Duration::from_mins(15);

/// The cgroups, and when one was last found to hold a zombie that is old.
#[derive(Debug, Default)]
pub(super) struct Copies(HashMap<u64, BootTime>);

impl Copies {
    /// A zombie of this cgroup of v2 is half as old as is reported. Nothing to do where that is not known. False where there is
    /// no room for another one.
    pub(super) fn put(&mut self, cgroup: u64, now: BootTime, kernel: &mut Kernel) -> bool {
        if cgroup == 0 || self.0.insert(cgroup, now).is_some() {
            return true;
        }
        let there_is_room = kernel.copy_in(cgroup);
        if !there_is_room {
            self.0.remove(&cgroup);
        }
        there_is_room
    }

    /// Ends the probation of those that were clean for long.
    pub(super) fn expire(&mut self, now: BootTime, kernel: &mut Kernel) {
        self.0.retain(|cgroup, last| {
            let wanted = now.since(*last) <= KEEP;
            if !wanted {
                kernel.copy_no_longer_in(*cgroup);
            }
            wanted
        });
    }
}
