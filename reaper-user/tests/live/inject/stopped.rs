//! Holders that do not run, and one in namespaces of its own.

use std::{fs, path::Path};

use super::{
    hand::{Hand, Wish},
    holder::{Holder, Thread},
    round::{Expect, Round},
    states,
};
use crate::support::{machine, rounds, signal};

#[test]
fn a_stopped_holder_is_made_to_wait_and_stays_stopped() {
    let _machine = machine();
    let mut holder = Holder::start(Thread::Main, &["tiles"]);
    let mut hand = Hand::default();
    let round = Round { state: states::named("nanosleep"), signal: None };
    for number in 0..rounds(8, 200) {
        let zombies = holder.pile([1, 4][number % 2]);
        let act = |holder: &Holder| {
            signal(holder.pid, libc::SIGSTOP);
            holder.until("it is stopped", |this| this.state(this.tid) == Some('T'));
            let came = hand.reap(holder, &zombies, Wish::new());
            // It goes on into the stop in which it was found.
            holder.until("it is stopped again", |this| this.state(this.tid) == Some('T'));
            signal(holder.pid, libc::SIGCONT);
            came
        };
        let (came, verdict) = round.run(&mut holder, act, |_| Expect::Exact);
        assert!(!verdict.inside || came.reaped == zombies.len(), "{came:?}");
        assert!(verdict.faults.is_empty(), "{:#?}", verdict.faults);
    }
    assert!(holder.settle().1.is_empty());
}

#[test]
fn a_frozen_holder_is_left_alone() {
    let _machine = machine();
    let name = format!("reaper-live-frozen-{}", std::process::id());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = |kind: &str, option: &str| {
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let found = lines.find(|fields| fields[2] == kind && fields[3].split(',').any(|word| word == option));
        found.map(|fields| fields[1].to_owned())
    };
    let v2 = mount("cgroup2", "rw").expect("no cgroup v2 is mounted");
    let mut freezers =
        vec![(Path::new(&v2).join(&name), "cgroup.freeze", "1", "0", "cgroup.events", "frozen 1")];
    // Where both versions are mounted, both are tried.
    if let Some(v1) = mount("cgroup", "freezer") {
        let place = Path::new(&v1).join(&name);
        freezers.push((place, "freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"));
    }
    for (place, file, frozen, thawed, shows, is) in freezers {
        fs::create_dir(&place).unwrap();
        let mut holder = Holder::start(Thread::Main, &[]);
        let mut hand = Hand::default();
        fs::write(place.join("cgroup.procs"), holder.pid.to_string()).unwrap();
        let round = Round { state: states::named("read"), signal: None };
        for _ in 0..rounds(3, 50) {
            let zombies = holder.pile(3);
            let act = |holder: &Holder| {
                fs::write(place.join(file), frozen).unwrap();
                holder.until("it is frozen", |_| fs::read_to_string(place.join(shows)).unwrap().contains(is));
                let came = hand.reap(holder, &zombies, Wish::new());
                fs::write(place.join(file), thawed).unwrap();
                came
            };
            let (came, verdict) = round.run(&mut holder, act, |_| Expect::Exact);
            assert_eq!((came.refusal.as_deref(), came.reaped), (Some("frozen"), 0), "{came:?}");
            assert!(verdict.faults.is_empty(), "{:#?}", verdict.faults);
            assert_eq!(holder.standing(&zombies), 3);
        }
        let (_, wrong) = holder.settle();
        assert!(wrong.is_empty(), "{wrong:?}");
        let deadline = std::time::Instant::now() + super::holder::PATIENCE;
        while fs::remove_dir(&place).is_err() {
            assert!(std::time::Instant::now() < deadline, "{} is not empty", place.display());
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_first_process_of_other_namespaces_is_asked_by_its_own_numbers() {
    let _machine = machine();
    let mut holder = Holder::start_apart(&["tiles"]);
    let mut hand = Hand::default();
    for state in ["nanosleep", "read", "wait4", "epoll-wait"] {
        let round = Round { state: states::named(state), signal: None };
        for number in 0..rounds(4, 200) {
            let zombies = holder.pile([1, 4][number % 2]);
            assert!(zombies.iter().all(|zombie| zombie.pid != zombie.ns_pid));
            let (came, verdict) =
                round.run(&mut holder, |holder| hand.reap(holder, &zombies, Wish::new()), |_| Expect::Exact);
            assert_eq!((came.reaped, &came.refusal), (zombies.len(), &None), "{state}: {came:?}");
            assert!(verdict.faults.is_empty(), "{state}: {:#?}", verdict.faults);
        }
    }
    assert!(holder.settle().1.is_empty());
}
