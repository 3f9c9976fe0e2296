//! Answers to show in tests.

use std::time::{Duration, Instant};

use super::{
    ask::Answer,
    key::Key,
    reaping::{Order, Said},
    state::{Act, Settings, State},
};
use crate::{
    origin,
    policy::Refusal,
    remedy::Remedy,
    report::{Event, HeadroomEvent, RemedyEvent, ShownWorkload, ZombieEvent, fixture, to_line},
    zombie::{Cause, Zombie},
};

/// One that has so many zombies, and nothing else to tell it from others but its number.
pub(super) fn workload(number: u32, zombies: u64) -> HeadroomEvent {
    let mut row = fixture::headroom();
    let cgroup = format!("/w{number}");
    row.workload = ShownWorkload {
        id: Some(format!("w{number}").as_str().into()),
        cgroup: Some(cgroup.as_str().into()),
        ..row.workload
    };
    row.limits[0].cgroup = Some(cgroup.as_str().into());
    row.zombies = zombies;
    row
}

/// A zombie of the workload of [`fixture::headroom`], forked in `crawl.py:42`.
pub(super) fn zombie(pid: u32, holder: u32, cause: Cause) -> ZombieEvent {
    let origin = fixture::forked_at(origin::fixture::exact(42)).origin;
    let mut zombie = Zombie { origin, ..fixture::never_waited() };
    zombie.identity.pid = pid;
    zombie.holder.pid = holder;
    zombie.cause = cause;
    fixture::shown(&zombie)
}

/// An answer of this moment.
pub(super) fn answer(workloads: Vec<HeadroomEvent>, zombies: Option<Vec<ZombieEvent>>) -> Answer {
    Answer { asked: Instant::now(), workloads, zombies }
}

pub(super) fn state(allow_remedies: bool, workloads: Vec<HeadroomEvent>) -> State {
    let settings = Settings { interval: Duration::from_secs(1), allow_remedies };
    State::new(settings, answer(workloads, None))
}

/// What `reaper reap` says about the adopted zombie, whose order this is: it would do it, or why not.
pub(super) fn said(order: &Order, is_done: bool, refusal: Option<&Refusal>) -> Said {
    said_about(order, is_done, refusal, &fixture::adopted())
}

pub(super) fn said_about(order: &Order, is_done: bool, refusal: Option<&Refusal>, zombie: &Zombie) -> Said {
    use std::os::unix::process::ExitStatusExt as _;
    let event = RemedyEvent::new(Remedy::Reap, None, !is_done, refusal, &[zombie], fixture::time()).unwrap();
    let output = std::process::Output {
        status: std::process::ExitStatus::from_raw(0),
        stdout: (to_line(&Event::Remedy(Box::new(event))).unwrap() + "\n").into_bytes(),
        stderr: b"a \x1b[31mword of \\x1b\n".to_vec(),
    };
    Said::read(order.clone(), is_done, &output)
}

/// A key that was typed when what is drawn had been on the screen for a second.
pub(super) fn typed(state: &mut State, key: Key) -> Option<Act> {
    let drawn = Instant::now();
    state.was_drawn(drawn, state.drawn);
    state.press(key, drawn + Duration::from_secs(1))
}
