//! What the kernel side could not record, said as events and once a minute in the log.

use std::time::Duration;

use jiff::Timestamp;

use super::Sink;
use crate::{
    identity::BootTime,
    kernel::{Kernel, KernelError},
    report::{Event, Loss},
};

/// Events are not closer together than this.
const APART: Duration = Duration::from_secs(1);

/// Log lines are not closer together than this.
const LOG_APART: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Losses {
    said: [u64; Loss::ALL.len()],
    logged: [u64; Loss::ALL.len()],
    last: BootTime,
    last_logged: BootTime,
}

impl Losses {
    /// Says what was lost since it was last said, not too often unless this is the `end`. True where a release was
    /// among it.
    pub(super) fn report(
        &mut self,
        kernel: &Kernel,
        now: BootTime,
        end: bool,
        sink: &mut Sink,
    ) -> Result<bool, KernelError> {
        if now.since(self.last) < APART && !end {
            return Ok(false);
        }
        self.last = now;
        let log = end || now.since(self.last_logged) >= LOG_APART;
        let mut releases = false;
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            let total = kernel.count(loss.counter())?;
            let count = total - self.said[index];
            if count > 0 {
                self.said[index] = total;
                releases |= loss == Loss::ReleaseLost;
                sink(Event::lost(loss, count, total, Timestamp::now()));
            }
            if log && total > self.logged[index] {
                let count = total - self.logged[index];
                self.logged[index] = total;
                self.last_logged = now;
                tracing::warn!(count, total, "{}: {}", loss.as_str(), loss.message());
            }
        }
        Ok(releases)
    }
}
