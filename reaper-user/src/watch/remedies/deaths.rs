//! Who dies of a remedy: noticed when it happens, by a descriptor of each holder that something was done to.

#![expect(unsafe_code, reason = "tokio wants a promise that a descriptor stays open while it is watched")]

use std::{io, os::fd::OwnedFd};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task::{AbortHandle, JoinSet},
};

use crate::{identity::Identity, proc::Proc, remedy::Handle};

/// Those whose end is waited for.
#[derive(Debug, Default)]
pub(super) struct Deaths(JoinSet<u64>);

/// That one's end is waited for, until this is dropped.
#[derive(Debug)]
pub(super) struct DeathWatch(AbortHandle);

impl Drop for DeathWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Deaths {
    /// Waits for the end of a holder that this order is about. Must be called inside a runtime. Where there is no descriptor for
    /// it the end is seen later, when the effect is looked for.
    pub(super) fn watch(&mut self, order: u64, proc: &Proc, holder: Identity) -> Option<DeathWatch> {
        let end = Handle::end(proc, holder)
            .inspect_err(|why| tracing::debug!(pid = holder.pid, %why, "its end is not waited for"))
            .ok()?;
        Some(DeathWatch(self.0.spawn(async move {
            ended(end).await;
            order
        })))
    }

    /// The order whose holder has ended; waits for the next one.
    pub(super) async fn next(&mut self) -> u64 {
        loop {
            match self.0.join_next().await {
                Some(Ok(order)) => return order,
                // Nobody waits for that one any more.
                Some(Err(_)) => {}
                None => return std::future::pending().await,
            }
        }
    }
}

async fn ended(end: OwnedFd) {
    let ended = async {
        // SAFETY: the descriptor is owned by what is made here, for as long as it is watched.
        let end = unsafe { AsyncFd::register_with_interest(end, Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        end.readable().await.map(drop)
    };
    let ended: io::Result<()> = ended.await;
    if let Err(error) = ended {
        tracing::warn!(%error, "a holder's end cannot be waited for");
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;
    use crate::identity::BootTime;

    fn sleeper() -> (Child, Identity) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let seen = Proc::at("/proc").see(child.id()).unwrap();
        (child, Identity { pid: seen.tgid, start: BootTime(seen.start_ticks * 10_000_000) })
    }

    #[tokio::test]
    async fn an_end_is_told_when_it_happens_and_not_where_nobody_waits_for_it_any_more() {
        let (proc, mut deaths) = (Proc::at("/proc"), Deaths::default());
        let [(mut first, of_first), (mut second, of_second)] = [sleeper(), sleeper()];
        let kept = deaths.watch(1, &proc, of_first).unwrap();
        drop(deaths.watch(2, &proc, of_second).unwrap());
        second.kill().unwrap();
        second.wait().unwrap();
        first.kill().unwrap();
        // Not when it has been waited for: that may never be.
        assert_eq!(timeout(Duration::from_secs(20), deaths.next()).await.unwrap(), 1, "the second was first");
        first.wait().unwrap();
        drop(kept);
        assert!(deaths.watch(3, &proc, of_first).is_none());
    }
}
