//! What could not be recorded, said as events and once a minute in the log.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;

use crate::{
    identity::BootTime,
    kernel::{Kernel, KernelError},
    report::{Counted, Event, Loss, Outbox},
};

/// Events are not closer together than this.
const APART: Duration = Duration::from_secs(1);

/// Log lines are not closer together than this.
const LOG_APART: Duration = Duration::from_secs(60);

const KINDS: usize = Loss::ALL.len();

#[derive(Debug)]
pub(super) struct Losses {
    /// What the daemon itself has counted, and what it was told.
    counted: [u64; KINDS],
    said: [u64; KINDS],
    logged: [u64; KINDS],
    /// What the books were put right after.
    heeded: [u64; KINDS],
    /// Events that are not written out yet, by their number: then a total is written down at this place.
    unwritten: VecDeque<(u64, u32, u64)>,
    last: BootTime,
    last_logged: BootTime,
}

/// An array of so many has no default of its own.
impl Default for Losses {
    fn default() -> Self {
        Self {
            counted: [0; KINDS],
            said: [0; KINDS],
            logged: [0; KINDS],
            heeded: [0; KINDS],
            unwritten: VecDeque::new(),
            last: BootTime::default(),
            last_logged: BootTime::default(),
        }
    }
}

/// What a loss makes necessary.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needed {
    /// Releases may have been missed.
    pub(super) releases: bool,
    /// The ledger may be wrong.
    pub(super) census: bool,
}

impl Losses {
    /// Goes on where an earlier daemon has ended: what it has said is not said again.
    pub(super) fn since(kernel: &Kernel) -> Result<Self, KernelError> {
        let mut losses = Self::default();
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            if let Some(place) = loss.said_at() {
                losses.said[index] = kernel.said(place)?;
                losses.logged[index] = losses.said[index];
                losses.heeded[index] = losses.said[index];
            }
        }
        Ok(losses)
    }

    /// Counts one that nobody else counts.
    pub(super) const fn count(&mut self, loss: Loss) {
        self.counted[loss as usize] += 1;
    }

    /// Takes over a total that is counted elsewhere.
    pub(super) const fn set(&mut self, loss: Loss, total: u64) {
        self.counted[loss as usize] = total;
    }

    /// How often each has happened.
    pub(super) fn totals(&self, kernel: &Kernel) -> Result<[u64; KINDS], KernelError> {
        let mut totals = self.counted;
        for (total, loss) in totals.iter_mut().zip(Loss::ALL) {
            if let Counted::Kernel(counter) = loss.counted() {
                *total = kernel.count(counter)?;
            }
        }
        Ok(totals)
    }

    /// Every kind, with what no event has told of yet.
    pub(super) fn all(&self, kernel: &Kernel) -> Result<Vec<Event>, KernelError> {
        let time = Timestamp::now();
        let told = Loss::ALL.into_iter().zip(self.totals(kernel)?).zip(self.said);
        Ok(told
            .map(|((loss, total), said)| Event::lost(loss, total.saturating_sub(said), total, time))
            .collect())
    }

    /// Writes down what has been said, for a daemon that comes after this one: the events up to this number are written out.
    pub(super) fn tell(&mut self, written: u64, kernel: &mut Kernel) -> Result<(), KernelError> {
        while let Some((_, place, total)) = self.unwritten.pop_front_if(|(number, ..)| *number <= written) {
            kernel.say(place, total)?;
        }
        Ok(())
    }

    /// Whether all that was said is written out.
    pub(super) fn are_told(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Says what was lost since it was last said, not too often unless this is the `end`.
    pub(super) fn report(
        &mut self,
        kernel: &Kernel,
        now: BootTime,
        end: bool,
        outbox: &mut Outbox,
    ) -> Result<Needed, KernelError> {
        let mut needed = Needed::default();
        if now.since(self.last) < APART && !end {
            return Ok(needed);
        }
        self.last = now;
        self.set(Loss::EventDropped, outbox.dropped());
        let log = end || now.since(self.last_logged) >= LOG_APART;
        for (index, (loss, total)) in Loss::ALL.into_iter().zip(self.totals(kernel)?).enumerate() {
            if loss.is_expected() {
                continue;
            }
            // Whether anybody reads of it or not.
            if total > self.heeded[index] {
                self.heeded[index] = total;
                needed.releases |= loss == Loss::ReleaseLost;
                needed.census |= loss.unsettles();
            }
            let count = total.saturating_sub(self.said[index]);
            if count > 0
                && let Some(number) = outbox.send(Event::lost(loss, count, total, Timestamp::now()))
            {
                self.said[index] = total;
                self.unwritten.extend(loss.said_at().map(|place| (number, place, total)));
            }
            if log && total > self.logged[index] {
                let count = total - self.logged[index];
                self.logged[index] = total;
                self.last_logged = now;
                if loss.is_mended() {
                    tracing::info!(count, total, "{}: {}", loss.as_str(), loss.message());
                } else {
                    tracing::warn!(count, total, "{}: {}", loss.as_str(), loss.message());
                }
            }
        }
        Ok(needed)
    }
}
