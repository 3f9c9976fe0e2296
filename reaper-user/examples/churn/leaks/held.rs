//! Children whose holder would wait, but cannot, or missed its notice, or is late.

use std::{collections::VecDeque, fs::File, os::fd::AsFd as _, thread, time::Instant};

use anyhow::{Context as _, Result};

use crate::{
    procfile::Stat,
    stage::{End, Pace, Stage, Wire, child, until},
    sys::{self, OnChild, Pid},
    truth::{Leak, wait_until_dead},
};

/// A holder that forks one child, which may die when `gate` opens, and blocks in a wait for it.
fn waiting_holder(stage: &Stage, round: u64, gate: &Wire) -> Result<(Pid, Pid)> {
    let pids = Wire::new()?;
    let holder = stage.start_unsettled("waiting holder", |_| {
        let pid = child(|| {
            let _ = gate.wait();
            End::of(round).happen()
        })?;
        pids.send(pid)?;
        sys::wait_for(pid)?;
        Ok(())
    })?;
    Ok((holder, pids.receive()?))
}

/// A debugger attaches to the child, does not wait, and so keeps the child from its parent, which does wait.
pub(super) fn tracer(stage: &Stage, mut pace: Pace) -> Result<()> {
    let (orders, attached) = (Wire::new()?, Wire::new()?);
    stage.start_unsettled("debugger", |_| {
        loop {
            sys::trace(orders.receive()?)?;
            attached.open()?;
        }
    })?;
    while pace.beat(stage) {
        let gate = Wire::new()?;
        // Exit codes only: a signal other than SIGKILL would stop it for the debugger.
        let (holder, pid) = waiting_holder(stage, 5 * pace.round, &gate)?;
        orders.send(pid)?;
        attached.wait()?;
        let died_after = sys::boot_now();
        gate.open()?;
        stage.truth.leak(&Leak {
            holder,
            forker: holder,
            cause: "held-by-tracer",
            ..Leak::own("tracer", pid, died_after)
        })?;
        stage.leaked();
    }
    Ok(())
}

/// The holder waits, but is stopped. Every other one is continued when its child must have been reported.
pub(super) fn stopped_holder(stage: &Stage, mut pace: Pace) -> Result<()> {
    let mut late = Late::new(stage);
    while pace.beat(stage) {
        let gate = Wire::new()?;
        let (holder, pid) = waiting_holder(stage, pace.round, &gate)?;
        sys::kill(holder, libc::SIGSTOP)?;
        until("the holder stops", || Stat::read(holder).is_ok_and(|stat| stat.state == 'T'))?;
        let died_after = sys::boot_now();
        gate.open()?;
        let released_later = pace.round.is_multiple_of(2);
        let leak = Leak {
            holder,
            forker: holder,
            cause: "holder-stopped",
            released_later,
            ..Leak::own("stopped-holder", pid, died_after)
        };
        let start_ticks = stage.truth.leak(&leak)?;
        stage.leaked();
        if released_later {
            late.push(holder, pid, start_ticks);
        }
        late.serve(continue_holder)?;
    }
    late.finish(continue_holder)
}

fn continue_holder(holder: Pid, pid: Pid, start_ticks: u64) -> Result<()> {
    sys::kill(holder, libc::SIGCONT)?;
    until("the continued holder waits", || {
        Stat::read(pid).map_or(true, |stat| stat.start_ticks != start_ticks)
    })
}

/// Children that their parent waits for when they must have been reported.
pub(super) fn waited_late(stage: &Stage, mut pace: Pace) -> Result<()> {
    let wait = |_, pid, _| sys::wait_for(pid).map(drop).map_err(Into::into);
    let mut late = Late::new(stage);
    while pace.beat(stage) {
        let (round, died_after) = (pace.round, sys::boot_now());
        let pid = child(|| End::of(round).happen())?;
        let leak = Leak { released_later: true, ..Leak::own("waited-late", pid, died_after) };
        let start_ticks = stage.truth.leak(&leak)?;
        stage.leaked();
        late.push(leak.holder, pid, start_ticks);
        late.serve(wait)?;
    }
    late.finish(wait)
}

/// Leaks that end by themselves.
struct Late<'a> {
    stage: &'a Stage,
    queue: VecDeque<(Instant, Pid, Pid, u64)>,
}

impl<'a> Late<'a> {
    const fn new(stage: &'a Stage) -> Self {
        Self { stage, queue: VecDeque::new() }
    }

    fn push(&mut self, holder: Pid, pid: Pid, start_ticks: u64) {
        self.queue.push_back((Instant::now() + self.stage.stands, holder, pid, start_ticks));
    }

    fn end_first(&mut self, end: impl Fn(Pid, Pid, u64) -> Result<()>) -> Result<()> {
        let Some((due, holder, pid, start_ticks)) = self.queue.pop_front() else { return Ok(()) };
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let after = sys::boot_now();
        end(holder, pid, start_ticks)?;
        self.stage.truth.released(pid, start_ticks, after)
    }

    fn serve(&mut self, end: impl Fn(Pid, Pid, u64) -> Result<()> + Copy) -> Result<()> {
        while self.queue.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            self.end_first(end)?;
        }
        Ok(())
    }

    fn finish(mut self, end: impl Fn(Pid, Pid, u64) -> Result<()> + Copy) -> Result<()> {
        while !self.queue.is_empty() {
            self.end_first(end)?;
        }
        Ok(())
    }
}

/// Children that their parent waits for after the half of the threshold and before the whole: not to be
/// reported, unless the machine was so slow that the wait came late.
pub(super) fn waited_in_time(stage: &Stage, mut pace: Pace) -> Result<()> {
    let mut waiting: VecDeque<(Instant, u64, Pid)> = VecDeque::new();
    let finish = |(due, died_after, pid): (Instant, u64, Pid)| -> Result<()> {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let start_ticks = Stat::read(pid)?.start_ticks;
        sys::wait_for(pid)?;
        let stood = u128::from(sys::boot_now() - died_after);
        if stood > stage.threshold.as_nanos() * 19 / 20 {
            stage.truth.undecided(pid, start_ticks, "waited for about when the threshold passed")?;
        }
        Ok(())
    };
    while pace.beat(stage) {
        let (round, now) = (pace.round, sys::boot_now());
        let pid = child(|| End::of(round).happen())?;
        waiting.push_back((Instant::now() + stage.threshold * 3 / 5, now, pid));
        while waiting.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            waiting.pop_front().map(finish).transpose()?;
        }
    }
    waiting.into_iter().try_for_each(finish)
}

/// A handler that waits once a signal, and two children that die while the signal is blocked.
pub(super) fn coalesced(stage: &Stage, mut pace: Pace) -> Result<()> {
    while pace.beat(stage) {
        let round = pace.round;
        let (pids, unblock, first, second) = (Wire::new()?, Wire::new()?, Wire::new()?, Wire::new()?);
        let holder = stage.start_unsettled("holder that waits once a signal", |_| {
            sys::on_child(OnChild::WaitOnce)?;
            sys::block_child_signal(true)?;
            for gate in [&first, &second] {
                pids.send(child(|| {
                    let _ = gate.wait();
                    End::Code(End::code_of(round)).happen()
                })?)?;
            }
            unblock.wait()?;
            Ok(sys::block_child_signal(false)?)
        })?;
        let (waited, leaked) = (pids.receive()?, pids.receive()?);
        first.open()?;
        wait_until_dead(waited).context("the first of two")?;
        let died_after = sys::boot_now();
        second.open()?;
        wait_until_dead(leaked).context("the second of two")?;
        unblock.open()?;
        until("the handler waits for the first", || Stat::read(waited).is_err())?;
        stage.truth.leak(&Leak {
            holder,
            forker: holder,
            cause: "notification-coalesced",
            ..Leak::own("coalesced", leaked, died_after)
        })?;
        stage.leaked();
    }
    Ok(())
}

/// A pid namespace that cannot die: a process outside forked into it (as `exec` into a container does) and does
/// not wait. In turn: the child dies with the namespace, and before it.
pub(super) fn namespace_dying(stage: &Stage, mut pace: Pace) -> Result<()> {
    while pace.beat(stage) {
        let (pids, gate, round) = (Wire::new()?, Wire::new()?, pace.round);
        stage.start_unsettled("parent of a namespace's PID 1", |stage| {
            sys::unshare_pids()?;
            pids.send(stage.start_unsettled("PID 1 of a dying namespace", |_| Ok(()))?)?;
            Ok(())
        })?;
        let init = pids.receive()?;
        let holder = stage.start_unsettled("exec into a namespace", |_| {
            let namespace = File::open(format!("/proc/{init}/ns/pid"))?;
            sys::enter_pid_namespace(namespace.as_fd())?;
            let pid = child(|| {
                let _ = gate.wait();
                End::of(round).happen()
            })?;
            Ok(pids.send(pid)?)
        })?;
        let pid = pids.receive()?;
        let died_after = sys::boot_now();
        let kind = if round.is_multiple_of(2) {
            "namespace-killed"
        } else {
            gate.open()?;
            wait_until_dead(pid)?;
            "dead-in-killed-namespace"
        };
        let start_ticks = Stat::read(init)?.start_ticks;
        sys::kill(init, libc::SIGKILL)?;
        stage.truth.leak(&Leak {
            holder,
            forker: holder,
            cause: "namespace-dying",
            ..Leak::own(kind, pid, died_after)
        })?;
        stage.leaked();
        // It is dead by the scheduler's count and cannot be waited for: whether to name it is a matter of taste.
        stage.truth.undecided(init, start_ticks, "PID 1 of a namespace that cannot die")?;
    }
    Ok(())
}
