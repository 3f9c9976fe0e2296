//! Children of a holder that lives and simply does not wait, however they were made. Never `adopted`.

use std::{collections::VecDeque, sync::mpsc, thread, time::Instant};

use anyhow::{Result, anyhow};

use crate::{
    healthy,
    stage::{End, Pace, Stage, Wire, child},
    sys::{self, Fork, Pid},
    truth::Leak,
};

fn write_down(stage: &Stage, leak: &Leak<'_>) -> Result<()> {
    stage.truth.leak(leak)?;
    stage.leaked();
    Ok(())
}

/// Leaks one child a beat, which dies at once.
fn each_beat(stage: &Stage, mut pace: Pace, kind: &str, make: impl Fn(u64) -> Result<Pid>) -> Result<()> {
    while pace.beat(stage) {
        let before = sys::boot_now();
        let pid = make(pace.round)?;
        write_down(stage, &Leak::own(kind, pid, before))?;
    }
    Ok(())
}

/// fork and exit.
pub(super) fn never_waited(stage: &Stage, pace: Pace) -> Result<()> {
    each_beat(stage, pace, "never-waited", |round| Ok(child(|| End::of(round).happen())?))
}

/// A clone without exit signal: the parent is never told.
pub(super) fn no_signal(stage: &Stage, pace: Pace) -> Result<()> {
    each_beat(stage, pace, "no-signal", |round| match sys::clone(0)? {
        Fork::Child => End::of(round).happen(),
        Fork::Parent(pid) => Ok(pid),
    })
}

/// vfork and exit.
pub(super) fn vfork(stage: &Stage, pace: Pace) -> Result<()> {
    each_beat(stage, pace, "vfork", |round| Ok(sys::vfork_and_exit(End::code_of(round))?))
}

/// posix_spawn of a program.
pub(super) fn posix_spawn(stage: &Stage, pace: Pace) -> Result<()> {
    each_beat(stage, pace, "posix-spawn", |round| {
        Ok(sys::posix_spawn(&stage.exe, &["exit-with", &End::code_of(round).to_string()])?)
    })
}

/// exec by a thread that is not the leader: pid and start stay the leader's.
pub(super) fn exec_from_thread(stage: &Stage, pace: Pace) -> Result<()> {
    each_beat(stage, pace, "exec-from-thread", |round| {
        healthy::exec_from_thread(&stage.exe, &["exit-with", &End::code_of(round).to_string()])
    })
}

/// The last two threads end together.
pub(super) fn last_two_threads(stage: &Stage, pace: Pace) -> Result<()> {
    each_beat(stage, pace, "last-two-threads", |round| {
        let code = End::code_of(round);
        healthy::last_two_threads(code, !code)
    })
}

/// The leader ends at once and looks like a zombie; its threads live for one and a half thresholds, or for
/// hardly any time. It is a zombie when they are dead. A third of them is then waited for.
pub(super) fn dead_leader(stage: &Stage, mut pace: Pace) -> Result<()> {
    struct Waiting {
        due: Instant,
        pid: Pid,
        round: u64,
        threads: Wire,
    }
    let finish = |Waiting { due: _, pid, round, threads }: Waiting| -> Result<()> {
        let before = sys::boot_now();
        threads.open()?;
        threads.open()?;
        if round % 3 == 0 {
            sys::wait_for(pid)?;
            Ok(())
        } else {
            write_down(stage, &Leak::own("dead-leader", pid, before))
        }
    };
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    while pace.beat(stage) {
        let (round, threads) = (pace.round, Wire::new()?);
        let pid = child(|| {
            let _ = sys::die_with_parent();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let _ = threads.wait();
                        sys::exit_thread(!End::code_of(round));
                    });
                }
                sys::exit_thread(End::code_of(round))
            })
        })?;
        let due = Instant::now() + stage.threshold * 3 / 2;
        let new = Waiting { due, pid, round, threads };
        if round % 4 == 0 {
            finish(new)?;
        } else {
            waiting.push_back(new);
        }
        while waiting.front().is_some_and(|front| front.due <= Instant::now()) {
            waiting.pop_front().map(finish).transpose()?;
        }
    }
    for late in waiting {
        thread::sleep(late.due.saturating_duration_since(Instant::now()));
        finish(late)?;
    }
    Ok(())
}

/// Forked by a thread that is not the leader: by one that lives on, and by one that is gone before the child
/// is, so that another thread of the same process becomes the parent.
pub(super) fn forked_by_thread(stage: &Stage, mut pace: Pace) -> Result<()> {
    let (orders, received) = mpsc::channel::<u64>();
    let (replies, pids) = mpsc::channel();
    thread::spawn(move || {
        for round in received {
            if replies.send(child(|| End::of(round).happen())).is_err() {
                break;
            }
        }
    });
    while pace.beat(stage) {
        let round = pace.round;
        if round.is_multiple_of(2) {
            let before = sys::boot_now();
            orders.send(round)?;
            write_down(stage, &Leak::own("forked-by-thread", pids.recv()??, before))?;
        } else {
            let gate = Wire::new()?;
            let fork = || {
                child(|| {
                    let _ = gate.wait();
                    End::of(round).happen()
                })
            };
            let pid = thread::scope(|scope| scope.spawn(fork).join())
                .map_err(|_| anyhow!("the forking thread panicked"))??;
            let before = sys::boot_now();
            gate.open()?;
            write_down(stage, &Leak::own("forked-by-thread-that-is-gone", pid, before))?;
        }
    }
    // The forking thread lives on as long as the channel does.
    std::mem::forget(orders);
    Ok(())
}

/// Forked with CLONE_PARENT by a child of the holder: by one that lives on, and by one that is gone and waited
/// for before the leaked child dies.
pub(super) fn clone_parent(stage: &Stage, mut pace: Pace) -> Result<()> {
    let (orders, replies) = (Wire::new()?, Wire::new()?);
    let forker = stage.start_unsettled("CLONE_PARENT forker", |_| {
        for round in 0.. {
            orders.wait()?;
            match sys::clone(libc::CLONE_PARENT | libc::SIGCHLD)? {
                Fork::Child => End::of(round).happen(),
                Fork::Parent(pid) => replies.send(pid)?,
            }
        }
        Ok(())
    })?;
    while pace.beat(stage) {
        let round = pace.round;
        if round.is_multiple_of(2) {
            let before = sys::boot_now();
            orders.open()?;
            let pid = replies.receive()?;
            write_down(stage, &Leak { forker, ..Leak::own("clone-parent", pid, before) })?;
        } else {
            let gate = Wire::new()?;
            let passing = child(|| match sys::clone(libc::CLONE_PARENT | libc::SIGCHLD) {
                Ok(Fork::Child) => {
                    let _ = gate.wait();
                    End::of(round).happen()
                }
                Ok(Fork::Parent(pid)) => u8::from(replies.send(pid).is_err()),
                Err(_) => u8::from(replies.send(-1).is_err()),
            })?;
            let pid = replies.receive()?;
            sys::wait_for(passing)?;
            let before = sys::boot_now();
            gate.open()?;
            let leak = Leak { forker: passing, ..Leak::own("clone-parent-forker-gone", pid, before) };
            write_down(stage, &leak)?;
        }
    }
    Ok(())
}
