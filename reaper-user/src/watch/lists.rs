//! Lists of zombies that somebody has asked for, while they are put together.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::Describer;
use crate::{
    identity::BootTime,
    observe::Answer,
    report::{BreakerEvent, ZombieEvent},
};

type Reply = oneshot::Sender<Listing>;

/// What stands now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Every zombie.
    pub zombies: Vec<ZombieEvent>,
    /// Circuit breakers that are open.
    pub breakers: Vec<BreakerEvent>,
}

/// Those that are not complete, by number.
#[derive(Debug, Default)]
pub(super) struct Lists {
    open: HashMap<u64, (Reply, Vec<ZombieEvent>)>,
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

    /// Adds what was seen, and hands the list over with the `last` of it.
    pub(super) fn take(
        &mut self,
        number: u64,
        answers: Vec<Answer>,
        last: bool,
        now: BootTime,
        describer: &mut Describer,
        breakers: impl FnOnce() -> Vec<BreakerEvent>,
    ) {
        let Some((_, zombies)) = self.open.get_mut(&number) else { return };
        let time = Timestamp::now();
        for answer in answers {
            if let Answer::Zombie { id, scene, .. } = answer
                && let Some(record) = describer.kernel.record(id)
            {
                zombies.push(ZombieEvent::new(&describer.describe(&record, &scene, now), now, time));
            }
        }
        if last && let Some((reply, zombies)) = self.open.remove(&number) {
            // Nobody waits for the answer any more: nothing to do.
            let _left = reply.send(Listing { zombies, breakers: breakers() });
        }
    }
}
