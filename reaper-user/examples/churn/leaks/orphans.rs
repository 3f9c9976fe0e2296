//! Children whose holder never made them: orphans that were adopted, and what a program inherits by exec.

use std::{
    collections::{HashSet, VecDeque},
    env,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{self, Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    procfile::{self, Stat},
    stage::{End, Pace, Stage, Wire, child, until},
    sys::{self, Pid},
    truth::{Leak, wait_until_dead},
};

/// Orphans given to a subreaper that waits only for its own children, by pid. In turn: the parent dies before
/// the child, and after it.
pub(super) fn subreaper(stage: &Stage, mut pace: Pace) -> Result<()> {
    sys::adopt_orphans()?;
    while pace.beat(stage) {
        let (round, pids) = (pace.round, Wire::new()?);
        let (parent_may_die, child_may_die) = (Wire::new()?, Wire::new()?);
        let middle = child(|| {
            let leaf = child(|| {
                let _ = child_may_die.wait();
                End::of(round).happen()
            });
            let sent = leaf.and_then(|leaf| pids.send(leaf)).and_then(|()| parent_may_die.wait());
            u8::from(sent.is_err())
        })?;
        let pid = pids.receive()?;
        let died_after = sys::boot_now();
        let kind = if round.is_multiple_of(2) {
            parent_may_die.open()?;
            sys::wait_for(middle)?;
            child_may_die.open()?;
            "orphan"
        } else {
            child_may_die.open()?;
            wait_until_dead(pid)?;
            parent_may_die.open()?;
            sys::wait_for(middle)?;
            "orphaned-when-dead"
        };
        let leak = Leak { forker: middle, cause: "adopted", ..Leak::own(kind, pid, died_after) };
        stage.truth.leak(&leak)?;
        stage.leaked();
    }
    Ok(())
}

/// A pid namespace's PID 1 that waits neither for the orphans it is given nor for its own children. We stay
/// outside and see the pids of the initial namespace.
pub(super) fn namespace_init(stage: &Stage, mut pace: Pace) -> Result<()> {
    let (orders, done) = (Wire::new()?, Wire::new()?);
    let (parent_may_die, child_may_die) = (Wire::new()?, Wire::new()?);
    sys::unshare_pids()?;
    let init = stage.start_unsettled("PID 1 of a namespace", |_| {
        for round in 1_u64.. {
            let order = orders.receive()?;
            if order == 0 {
                child(|| {
                    let _ = child_may_die.wait();
                    End::Code(End::code_of(round)).happen()
                })?;
                continue;
            }
            let middle = child(|| {
                let leaf = child(|| {
                    let _ = child_may_die.wait();
                    End::Code(End::code_of(round)).happen()
                });
                u8::from(leaf.is_err() || parent_may_die.wait().is_err())
            })?;
            sys::wait_for(middle)?;
            done.open()?;
        }
        Ok(())
    })?;
    let mut known = HashSet::new();
    while pace.beat(stage) {
        let adopted = pace.round.is_multiple_of(2);
        orders.send(adopted.into())?;
        let first = new_child(init, &known)?;
        let (kind, pid, forker, cause) = if adopted {
            let leaf = new_child(first, &HashSet::new())?;
            parent_may_die.open()?;
            done.wait()?;
            ("namespace-orphan", leaf, first, "adopted")
        } else {
            ("namespace-child", first, init, "never-waited")
        };
        known.insert(pid);
        let died_after = sys::boot_now();
        child_may_die.open()?;
        let leak = Leak { holder: init, forker, cause, ..Leak::own(kind, pid, died_after) };
        stage.truth.leak(&leak)?;
        stage.leaked();
    }
    Ok(())
}

fn new_child(parent: Pid, known: &HashSet<Pid>) -> Result<Pid> {
    let mut found = None;
    until("a new child", || {
        let children = procfile::children(parent).unwrap_or_default();
        found = children.into_iter().find(|pid| !known.contains(pid));
        found.is_some()
    })?;
    found.context("it was there")
}

/// A shell's `helper & exec app`. In turn: the helper dies after the exec, and before it. (Between the two no
/// other command may stand: after each, dash waits for what is dead.)
pub(super) fn shell(stage: &Stage, mut pace: Pace) -> Result<()> {
    // The app ignores what it never started; it lives until we do not.
    const AFTER: &str = r#"exec 3<&0; "$0" helper "$1" <&3 & exec sleep 1000000"#;
    // The redirection blocks until somebody opens the other end.
    const BEFORE: &str = r#""$0" exit-with "$1" & exec sleep 1000000 4<"$2""#;
    let fifo = env::temp_dir().join(format!("churn-{}.fifo", process::id()));
    while pace.beat(stage) {
        let after = pace.round.is_multiple_of(2);
        let (input, mut go) = io::pipe()?;
        if !after {
            sys::make_fifo(&fifo)?;
        }
        let code = End::code_of(pace.round).to_string();
        let died_after = sys::boot_now();
        let holder = stage.start_unsettled("shell", |stage| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", if after { AFTER } else { BEFORE }, &stage.exe, &code]).arg(&fifo);
            Err(command.stdin(input).stdout(Stdio::null()).exec().into())
        })?;
        let pid = new_child(holder, &HashSet::new())?;
        let has_execed = || Stat::read(holder).is_ok_and(|stat| stat.comm == "sleep");
        let (kind, died_after) = if after {
            until("the shell execs", has_execed)?;
            let now = sys::boot_now();
            go.write_all(b"\n")?;
            ("shell-exec-then-death", now)
        } else {
            wait_until_dead(pid)?;
            drop(File::create(&fifo)?);
            fs::remove_file(&fifo)?;
            until("the shell execs", has_execed)?;
            ("shell-death-then-exec", died_after)
        };
        let leak = Leak { holder, forker: holder, cause: "inherited", ..Leak::own(kind, pid, died_after) };
        stage.truth.leak(&leak)?;
        stage.leaked();
    }
    Ok(())
}

/// The holder lives long enough for its child to be reported, then dies: the child goes to the main process,
/// which waits for it.
pub(super) fn holder_dies(stage: &Stage, mut pace: Pace) -> Result<()> {
    struct Dying {
        due: Instant,
        holder: Pid,
        may_die: Wire,
        pid: Pid,
        start_ticks: u64,
    }
    let finish = |dying: Dying| -> Result<()> {
        let Dying { due, holder, may_die, pid, start_ticks } = dying;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let after = sys::boot_now();
        may_die.open()?;
        sys::wait_for(holder)?;
        until("the main process waits for it", || {
            Stat::read(pid).map_or(true, |stat| stat.start_ticks != start_ticks)
        })?;
        stage.truth.released(pid, start_ticks, after)
    };
    let mut dying = VecDeque::new();
    while pace.beat(stage) {
        let (pids, may_die, round) = (Wire::new()?, Wire::new()?, pace.round);
        let died_after = sys::boot_now();
        let holder = child(|| {
            let leaked = sys::die_with_parent().and_then(|()| child(|| End::of(round).happen()));
            let sent = leaked.and_then(|pid| pids.send(pid)).and_then(|()| may_die.wait());
            u8::from(sent.is_err())
        })?;
        let pid = pids.receive()?;
        let leak = Leak {
            holder,
            forker: holder,
            released_later: true,
            ..Leak::own("holder-dies", pid, died_after)
        };
        let start_ticks = stage.truth.leak(&leak)?;
        stage.leaked();
        let due = Instant::now() + stage.stands;
        dying.push_back(Dying { due, holder, may_die, pid, start_ticks });
        while dying.front().is_some_and(|front| front.due <= Instant::now()) {
            dying.pop_front().map(finish).transpose()?;
        }
    }
    dying.into_iter().try_for_each(finish)
}
