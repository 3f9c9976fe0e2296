use std::sync::Arc;

use super::*;
use crate::kernel::INITIAL_PID_NAMESPACE;

/// The kernel's counts.
#[derive(Default)]
struct Counted(HashMap<Who, u64>);

impl Counts for Counted {
    fn of(&self, who: Who) -> u64 {
        self.0.get(&who).copied().unwrap_or(0)
    }

    fn all(&self) -> Vec<Who> {
        self.0.keys().copied().collect()
    }

    fn forget(&mut self, who: Who) {
        self.0.remove(&who);
    }
}

fn who(uid: u32) -> Who {
    Who { cgroup: 7, uid, elsewhere: 0 }
}

fn attempt(uid: u32, fresh: bool) -> Attempt {
    Attempt {
        who: who(uid),
        source: Source::Fexit,
        forker: None,
        cgroup: Some(Arc::from(&b"/pod"[..])),
        uid,
        processes: 0,
        nproc: None,
        pid_ns: INITIAL_PID_NAMESPACE,
        pids: 0,
        pid_max: None,
        unread: false,
        count: 0,
        fresh,
    }
}

fn hooked() -> Hooked {
    Hooked::by(&RefusalHook::Fexit)
}

/// Hands over as the daemon does, to a thread that takes so many at most, and says how many forks those were.
fn hand_over(hooked: &mut Hooked, counted: &Counted, now: Instant, mut room: usize) -> u64 {
    let mut count = 0;
    hooked.hand_over(counted, now, |attempt| {
        let takes = room > 0;
        if takes {
            room -= 1;
            count += attempt.count;
        }
        takes
    });
    count
}

/// The moment by which all is handed over, as the thread is told it.
fn acknowledged(hooked: &mut Hooked, now: Instant) -> Option<Instant> {
    let mut told = None;
    hooked.acknowledge(now, |until| {
        told = Some(until);
        true
    });
    told
}

#[test]
fn what_of_one_who_is_known_was_not_announced_is_found_by_the_walk() {
    let (mut hooked, mut counted, now) = (hooked(), Counted::default(), Instant::now());
    counted.0.insert(who(1), 3);
    hooked.announced(attempt(1, true), now);
    assert_eq!(hand_over(&mut hooked, &counted, now, 64), 3);
    // Nothing more came for long.
    assert_eq!(hand_over(&mut hooked, &counted, now + AGAIN, 64), 0);
    counted.0.insert(who(1), 5);
    let walk = now + WALK + AGAIN;
    assert!(hooked.walks(walk) && hooked.due().is_some_and(|due| due <= walk));
    assert_eq!(hooked.walk(&counted, walk), []);
    assert_eq!(hand_over(&mut hooked, &counted, walk, 64), 2);
}

#[test]
fn who_is_not_known_is_met_on_the_walk() {
    let (mut hooked, mut counted, now) = (hooked(), Counted::default(), Instant::now());
    counted.0.insert(who(1), 3);
    assert!(!hooked.walks(now));
    hooked.want(now);
    assert!(hooked.walks(now));
    assert_eq!(hooked.walk(&counted, now), [who(1)]);
    hooked.meet(attempt(1, false), now);
    assert_eq!(hand_over(&mut hooked, &counted, now, 64), 3);
    assert!(!Hooked::by(&RefusalHook::Off).walks(now + WALK * 2));
}

#[test]
fn that_all_was_handed_over_is_said_when_the_thread_had_room_for_all() {
    let (mut hooked, mut counted, now) = (hooked(), Counted::default(), Instant::now());
    for uid in 0..100 {
        counted.0.insert(who(uid), 1);
    }
    hooked.want(now);
    for who in hooked.walk(&counted, now) {
        hooked.meet(attempt(who.uid, false), now);
    }
    assert_eq!(hand_over(&mut hooked, &counted, now, 64), 64);
    assert_eq!((acknowledged(&mut hooked, now), hooked.is_behind()), (None, true));
    // What is counted after that is no part of it.
    let later = now + BEHIND;
    assert_eq!(hooked.due(), Some(later));
    assert_eq!(hand_over(&mut hooked, &counted, later, 64), 36);
    assert_eq!((acknowledged(&mut hooked, later), acknowledged(&mut hooked, later)), (Some(now), None));
    // It may have no room for that either.
    hooked.want(later);
    assert_eq!(hooked.walk(&counted, later), []);
    hooked.acknowledge(later, |_| false);
    assert_eq!(acknowledged(&mut hooked, later), None);
    assert_eq!(acknowledged(&mut hooked, later + BEHIND), Some(later));
}

#[test]
fn at_the_end_nothing_waits_until_the_thread_may_have_room_and_what_is_left_is_lost_once() {
    let (mut hooked, mut counted, now) = (hooked(), Counted::default(), Instant::now());
    for uid in 0..100 {
        counted.0.insert(who(uid), 2);
        hooked.announced(attempt(uid, true), now);
    }
    assert_eq!(hand_over(&mut hooked, &counted, now, 64), 128);
    assert_eq!(hand_over(&mut hooked, &counted, now, 64), 0, "not so soon");
    hooked.hurry(now);
    assert_eq!(hand_over(&mut hooked, &counted, now, 30), 60);
    assert_eq!(hooked.give_up(&counted), 12);
    hooked.settled = 188;
    // The next daemon counts as lost what was not told of: these are that already.
    assert_eq!(hooked.told(0), 200);
}

#[test]
fn what_the_thread_has_said_nothing_of_is_not_told() {
    let (mut hooked, mut counted, now) = (hooked(), Counted::default(), Instant::now());
    counted.0.insert(who(1), 100);
    hooked.announced(attempt(1, true), now);
    assert_eq!((hand_over(&mut hooked, &counted, now, 64), hooked.told(0)), (100, 0));
    hooked.settled = 30;
    assert_eq!((hooked.told(0), hooked.told(29)), (30, 1));
    hooked.settled = 100;
    assert_eq!(hooked.told(0), 100);
}

#[test]
fn whose_cgroup_is_gone_makes_room_when_all_of_it_was_handed_over() {
    let (mut hooked, mut counted, now) = (hooked(), Counted::default(), Instant::now());
    counted.0.insert(who(1), 1);
    hooked.announced(attempt(1, true), now);
    hand_over(&mut hooked, &counted, now, 64);
    let later = now + AGAIN;
    hand_over(&mut hooked, &counted, later, 64);
    counted.0.insert(who(1), 2);
    hooked.forget(&mut counted, later, |_, _| true);
    assert_eq!(counted.of(who(1)), 2);
    hooked.want(later);
    hooked.walk(&counted, later);
    hand_over(&mut hooked, &counted, later, 64);
    hand_over(&mut hooked, &counted, later + AGAIN, 64);
    hooked.forget(&mut counted, later + AGAIN, |_, _| true);
    assert_eq!(counted.0.len(), 0);
}
