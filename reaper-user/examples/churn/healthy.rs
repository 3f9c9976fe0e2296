//! Healthy lives: children that never stand unwaited for longer than their parent needs to be scheduled.

use std::{
    hint, process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::{
    stage::{End, Pace, Stage, Wire, child},
    sys::{self, Fork, OnChild, Pid},
};

/// Of each forty lives of a worker that waits, the places in `LIVES` of those that are not a plain fork.
const SPECIAL: [(u64, usize); 18] = [
    (1, 3),
    (2, 7),
    (5, 3),
    (7, 3),
    (9, 8),
    (10, 10),
    (11, 3),
    (13, 9),
    (15, 3),
    (17, 4),
    (19, 3),
    (20, 7),
    (23, 5),
    (25, 3),
    (29, 6),
    (31, 3),
    (33, 9),
    (37, 7),
];

/// Lives that one process leads at once, at most, where it does not wait for each.
const AT_ONCE: u64 = 16;

/// Starts `workers` processes which together lead `rate` lives a second. The first two autoreap.
pub(crate) fn start(stage: &Stage, rate: f64, workers: u32) -> Result<Vec<Pid>> {
    let autoreaped = rate / 10.0;
    let waited = (rate - 2.0 * autoreaped) / f64::from(workers.saturating_sub(2).max(1));
    let mut pids = vec![
        stage.start("autoreap by SIG_IGN", |stage| autoreap(stage, autoreaped, OnChild::Ignore, 1))?,
        stage.start("autoreap by SA_NOCLDWAIT", |stage| autoreap(stage, autoreaped, OnChild::NoWait, 2))?,
    ];
    for _ in 2..workers.max(3) {
        pids.push(stage.start("worker", |stage| wait_for_all(stage, waited))?);
    }
    Ok(pids)
}

fn autoreap(stage: &Stage, rate: f64, what: OnChild, kind: usize) -> Result<()> {
    sys::on_child(what)?;
    let mut pace = Pace::new(Duration::from_secs_f64(1.0 / rate));
    while pace.beat(stage) {
        // Nobody waits for a life here, so on a busy machine they would pile up by the thousand.
        if pace.round.is_multiple_of(AT_ONCE) {
            sys::wait_until_childless();
        }
        child(|| 0)?;
        stage.lived(kind);
    }
    sys::wait_until_childless();
    Ok(())
}

fn wait_for_all(stage: &Stage, rate: f64) -> Result<()> {
    let mut pace = Pace::new(Duration::from_secs_f64(1.0 / rate));
    while pace.beat(stage) {
        let kind = SPECIAL.iter().find(|(place, _)| *place == pace.round % 40).map_or(0, |(_, kind)| *kind);
        match kind {
            3 => sys::wait_for(sys::vfork_and_exit(End::code_of(pace.round))?)?,
            4 => sys::wait_for(sys::posix_spawn("/bin/true", &[])?)?,
            5 => sys::wait_for(child(|| {
                sys::exec("/bin/true", &[]);
                127
            })?)?,
            6 => sys::wait_for(exec_from_thread("/bin/true", &[])?)?,
            7 => sys::wait_for(last_two_threads(0, 0)?)?,
            8 => clone_parent()?,
            9 => orphan()?,
            10 => sys::wait_for(child(|| End::Signal(libc::SIGKILL).happen())?)?,
            _ => sys::wait_for(child(|| 0)?)?,
        };
        stage.lived(kind);
    }
    Ok(())
}

/// A child with two threads, of which the second calls exec: the kernel gives it the leader's pid and start.
pub(crate) fn exec_from_thread(path: &str, arguments: &[&str]) -> Result<Pid> {
    Ok(child(|| {
        let called = thread::scope(|scope| scope.spawn(|| sys::exec(path, arguments)).join());
        drop(called);
        127
    })?)
}

/// A child with two threads which end at the same time, with these exit codes. The leader's is the process's.
pub(crate) fn last_two_threads(leader: u8, other: u8) -> Result<Pid> {
    static READY: AtomicU32 = AtomicU32::new(0);
    let meet = || {
        READY.fetch_add(1, Ordering::SeqCst);
        while READY.load(Ordering::SeqCst) < 2 {
            hint::spin_loop();
        }
    };
    Ok(child(|| {
        let second = thread::spawn(move || {
            meet();
            sys::exit_thread(other)
        });
        drop(second);
        meet();
        sys::exit_thread(leader)
    })?)
}

/// A child whose child is ours, too. Both are waited for.
fn clone_parent() -> Result<i32> {
    let wire = Wire::new()?;
    let middle = child(|| {
        match sys::clone(libc::CLONE_PARENT | libc::SIGCHLD) {
            Ok(Fork::Child) => 0,
            // A failed clone sends -1, for which there is nothing to wait.
            Ok(Fork::Parent(pid)) => u8::from(wire.send(pid).is_err()),
            Err(_) => u8::from(wire.send(-1).is_err()),
        }
    })?;
    let sibling = wire.receive()?;
    sys::wait_for(middle)?;
    Ok(sys::wait_for(sibling)?)
}

/// A child whose child survives it, and is waited for by the main process, which adopts it.
fn orphan() -> Result<i32> {
    let middle = child(|| {
        let middle = process::id();
        let grandchild = child(|| {
            // Dies after its parent, which may be dead before it runs at all.
            while u32::try_from(sys::parent()) == Ok(middle) {
                thread::yield_now();
            }
            0
        });
        u8::from(grandchild.is_err())
    })?;
    Ok(sys::wait_for(middle)?)
}
