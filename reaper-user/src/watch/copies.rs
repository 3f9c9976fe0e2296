//! Workloads on probation: what holds a zombie that nobody waits for will leak more of them, and native stacks of its forks are
//! taken from then on.

use std::{collections::HashMap, time::Duration};

use reaper_ebpf::Group;

use crate::{identity::BootTime, kernel::Kernel};

/// Those without another old zombie for so long are no longer looked at. A slow leak is one as well.
const KEEP: Duration = Duration::from_mins(15);

/// Those in the same cgroups, and when one of them was last found to be a zombie that is old.
#[derive(Debug, Default)]
pub(super) struct Copies(HashMap<Group, BootTime>);

impl Copies {
    /// A zombie of these cgroups is half as old as is reported. Nothing to do where they are not known. False where there is no
    /// room for others.
    pub(super) fn put(&mut self, group: Group, now: BootTime, kernel: &mut Kernel) -> bool {
        if group == Group::default() || self.0.insert(group, now).is_some() {
            return true;
        }
        let there_is_room = kernel.copy_in(group);
        if !there_is_room {
            self.0.remove(&group);
        }
        there_is_room
    }

    /// Whether none are on probation.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the probation of those that were clean for long.
    pub(super) fn expire(&mut self, now: BootTime, kernel: &mut Kernel) {
        self.0.retain(|group, last| {
            let wanted = now.since(*last) <= KEEP;
            if !wanted {
                kernel.copy_no_longer_in(*group);
            }
            wanted
        });
    }
}
