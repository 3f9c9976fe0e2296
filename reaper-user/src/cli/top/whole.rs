//! One workload or zombie to be read in full, in a pane that is scrolled: what a row or the top of a view has no room for.

use super::state::{State, WorkloadKey, identity};
use crate::report::{HeadroomEvent, ZombieEvent};

/// What is read.
#[derive(Debug)]
pub(super) struct Whole {
    /// As it was last seen.
    pub(super) of: Of,
    /// Whether it is still told of.
    pub(super) is_told: bool,
}

/// What can be read in full.
#[derive(Debug)]
pub(super) enum Of {
    Workload(Box<HeadroomEvent>),
    Zombie(Box<ZombieEvent>),
}

impl Whole {
    /// A workload.
    pub(super) fn workload(row: &HeadroomEvent) -> Self {
        Self { of: Of::Workload(Box::new(row.clone())), is_told: true }
    }

    /// A zombie.
    pub(super) fn zombie(zombie: &ZombieEvent) -> Self {
        Self { of: Of::Zombie(Box::new(zombie.clone())), is_told: true }
    }

    /// Takes in what is known now.
    pub(super) fn refresh(&mut self, state: &State) {
        self.is_told = match &mut self.of {
            Of::Workload(own) => {
                let key = WorkloadKey::of(own);
                let now = state.all_workloads().iter().find(|row| WorkloadKey::of(row) == key);
                now.map(|row| own.as_mut().clone_from(row)).is_some()
            }
            Of::Zombie(own) => {
                let now = state.zombies().iter().find(|other| identity(other) == identity(own));
                now.map(|zombie| own.as_mut().clone_from(zombie)).is_some()
            }
        };
    }
}
