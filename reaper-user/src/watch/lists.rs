//! Lists of zombies that somebody has asked for, while they are put together.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{Describer, explain::Reply};
use crate::{
    identity::BootTime,
    observe::Answer,
    report::{BreakerEvent, ZombieEvent},
};

/// What stands now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Every zombie.
    pub zombies: Vec<ZombieEvent>,
    /// Circuit breakers that are open.
    pub breakers: Vec<BreakerEvent>,
}

/// Who has asked, and what was found by now.
type Open = (Reply, Vec<(u64, ZombieEvent)>);

/// Those that are not complete, by number.
#[derive(Debug, Default)]
pub(super) struct Lists {
    open: HashMap<u64, Open>,
    count: u64,
}

impl Lists {
    /// Begins one, and says its number.
    pub(super) fn open(&mut self, reply: Reply) -> u64 {
        self.count += 1;
        self.open.insert(self.count, (reply, Vec::new()));
        self.count
    }

    /// It cannot be made now: whoever asked is told so by the end of the channel.
    pub(super) fn refuse(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// None of them can be made.
    pub(super) fn refuse_all(&mut self) {
        self.open.clear();
    }

    /// Adds what was seen, and returns the list with the `last` of it.
    pub(super) fn take(
        &mut self,
        number: u64,
        answers: Vec<Answer>,
        last: bool,
        now: BootTime,
        describer: &mut Describer,
    ) -> Option<Open> {
        let (_, zombies) = self.open.get_mut(&number)?;
        let time = Timestamp::now();
        for answer in answers {
            if let Answer::Zombie { id, scene, .. } = answer
                && let Some(record) = describer.kernel.record(id)
            {
                let zombie = describer.describe(&record, &scene, now);
                zombies.push((id, ZombieEvent::new(&zombie, now, time)));
            }
        }
        if last { self.open.remove(&number) } else { None }
    }
}
