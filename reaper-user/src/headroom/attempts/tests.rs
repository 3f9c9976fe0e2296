use std::{fs, path::Path, time::Duration};

use super::*;
use crate::{
    headroom::{
        files::Files,
        unclaimed::{CLAIMED, FOLLOWS, HELD},
    },
    identity::BootTime,
};

const BOX: &str = "/pod/box";

/// A node of 100 tasks with these limits, and a cgroup in another one, each with the `local` count of the kernels that have it.
fn machine(threads_max: u64, pid_max: u64, local: bool) -> (tempfile::TempDir, Refusals) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
    fs::write(root.path().join("sys/kernel/pid_max"), format!("{pid_max}\n")).unwrap();
    fs::write(root.path().join("sys/kernel/threads-max"), format!("{threads_max}\n")).unwrap();
    fs::write(root.path().join("loadavg"), "8.68 6.07 3.61 7/100 2369\n").unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let mut refusals = Refusals::new(files, true);
    for path in ["/pod", BOX] {
        let directory = root.path().join(&path[1..]);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("pids.max"), "20\n").unwrap();
        fs::write(directory.join("pids.current"), "20\n").unwrap();
        grow(root.path(), path, local, 0);
        refusals.watch(Arc::from(path.as_bytes()), true, Instant::now());
    }
    (root, refusals)
}

fn grow(root: &Path, path: &str, local: bool, count: u64) {
    let file = if local { "pids.events.local" } else { "pids.events" };
    fs::write(root.join(&path[1..]).join(file), format!("max {count}\n")).unwrap();
}

fn attempt(count: u64) -> Attempt {
    Attempt {
        who: Who { cgroup: 7, uid: 1_000, elsewhere: 0 },
        source: Source::Fexit,
        forker: Some(Forker { identity: Identity { pid: 9, start: BootTime(1) }, comm: "sh".into() }),
        cgroup: Some(Arc::from(BOX.as_bytes())),
        uid: 1_000,
        processes: 5,
        nproc: None,
        pid_ns: 3,
        pids: 5,
        pid_max: None,
        unread: false,
        count,
        fresh: true,
    }
}

fn attempted(refusals: &mut Refusals, attempt: &Attempt, now: Instant) -> Refusal {
    let mut told = refusals.attempted(attempt, now);
    assert_eq!(told.len(), 1, "{told:?}");
    told.remove(0)
}

/// What is told at that moment, where all that the hook had counted by then was handed over, which is done when it is asked for.
fn passed(refusals: &mut Refusals, now: Instant) -> Vec<Refusal> {
    assert_eq!(refusals.look(now), []);
    if refusals.wants_counts(now) {
        assert!(!refusals.wants_counts(now + HELD) && refusals.due().is_none(), "it is asked for once");
        refusals.handed_over(now)
    } else {
        Vec::new()
    }
}

fn found(refusals: &mut Refusals, attempt: &Attempt) -> Found {
    attempted(refusals, attempt, Instant::now()).found
}

#[test]
fn what_the_hook_and_pids_events_both_say_is_told_once_whichever_comes_first() {
    for (local, at) in [(true, "/pod"), (false, BOX)] {
        let (root, mut refusals) = machine(1_000, 32_768, local);
        let now = Instant::now();
        grow(root.path(), at, local, 3);
        // The notification comes first, and with more than the hook has counted by then.
        assert_eq!(refusals.look(now), []);
        assert!(refusals.take_moved() && refusals.due().is_some());
        let told = attempted(&mut refusals, &attempt(1), now);
        assert_eq!((&told.path[..], told.at_limit, told.count), (at.as_bytes(), local, 1));
        assert_eq!((told.source, told.found.clone()), (Source::Fexit, Found::PidsMax));
        assert_eq!(
            (told.forker.as_deref(), told.levels.len()),
            (Some(BOX.as_bytes()), if local { 1 } else { 2 })
        );
        assert_eq!(told.who, attempt(1).forker);
        // The rest is claimed when the hook has counted it, and then nothing is left.
        let rest = attempted(&mut refusals, &Attempt { fresh: false, ..attempt(2) }, now);
        assert_eq!((rest.count, rest.key()), (2, told.key()));
        assert_eq!(passed(&mut refusals, now + 2 * CLAIMED), []);
        // The hook comes first.
        grow(root.path(), at, local, 4);
        assert_eq!(attempted(&mut refusals, &attempt(1), now).key(), told.key());
        assert_eq!(passed(&mut refusals, now + 2 * CLAIMED), []);
        assert_eq!(refusals.lost().unwatched, 0);
    }
}

#[test]
fn what_the_hook_does_not_claim_is_told_as_what_pids_events_said() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    let now = Instant::now();
    grow(root.path(), "/pod", true, 2);
    assert_eq!(refusals.look(now), []);
    assert_eq!(refusals.due(), Some(now + CLAIMED));
    grow(root.path(), "/pod", true, 5);
    assert_eq!(attempted(&mut refusals, &attempt(1), now).count, 1);
    let told = passed(&mut refusals, now + CLAIMED);
    assert_eq!(
        told.iter().map(|told| (told.count, told.source)).collect::<Vec<_>>(),
        [(4, Source::PidsEvents)]
    );
    assert_eq!((passed(&mut refusals, now + 2 * CLAIMED), refusals.due()), (Vec::new(), None));
}

#[test]
fn however_late_the_hooks_counts_are_handed_over_it_is_told_once() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    let now = Instant::now();
    grow(root.path(), "/pod", true, 5);
    let late = now + 20 * CLAIMED;
    for tenth in 0..200 {
        let now = now + CLAIMED / 10 * tenth;
        assert_eq!(refusals.look(now), []);
        assert_eq!(refusals.wants_counts(now), tenth == 10, "at tenth {tenth}");
    }
    assert_eq!(attempted(&mut refusals, &attempt(5), late).found, Found::PidsMax);
    assert_eq!(refusals.handed_over(late), []);
    assert_eq!((refusals.settled(), refusals.due()), (5, None));
    // What came in the meantime is not over with that.
    grow(root.path(), "/pod", true, 8);
    assert_eq!(refusals.look(late), []);
    assert_eq!(refusals.handed_over(late + CLAIMED / 2), []);
    assert_eq!(attempted(&mut refusals, &attempt(3), late + CLAIMED).found, Found::PidsMax);
}

#[test]
fn of_those_before_the_one_that_ran_into_its_users_limit_a_count_says_more() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    let user = |count| Attempt { processes: 40, nproc: Some(40), ..attempt(count) };
    let of = |told: Vec<Refusal>| told.into_iter().map(|told| (told.found, told.count)).collect::<Vec<_>>();
    let nproc = Found::Other(Limit::Nproc(1_000), 40, 40);
    grow(root.path(), "/pod", true, 49);
    let told = refusals.attempted(&user(50), Instant::now());
    assert_eq!(of(told), [(Found::PidsMax, 49), (nproc.clone(), 1)]);
    // That one is certain, also where as many are counted, of somebody else's then.
    grow(root.path(), "/pod", true, 52);
    assert_eq!(of(refusals.attempted(&user(1), Instant::now())), [(nproc.clone(), 1)]);
    assert_eq!(of(refusals.attempted(&attempt(3), Instant::now())), [(Found::PidsMax, 3)]);
    // Where no count has grown all are the user's.
    assert_eq!(of(refusals.attempted(&user(10_000), Instant::now())), [(nproc.clone(), 10_000)]);
    // Of those into another cgroup it is not known, until no count was the reason.
    let now = Instant::now();
    let into = Attempt { who: elsewhere(1).who, ..user(7) };
    assert_eq!(
        (of(refusals.attempted(&into, now)), refusals.due()),
        (vec![(nproc.clone(), 1)], Some(now + HELD))
    );
    assert_eq!(of(passed(&mut refusals, now + HELD)), [(nproc, 6)]);
}

#[test]
fn where_a_cgroup_that_was_watched_is_gone_no_limit_is_said_not_to_have_been_full() {
    for is_gone in [true, false] {
        let (root, mut refusals) = machine(1_000, 32_768, true);
        grow(root.path(), "/pod", true, 1);
        assert_eq!(found(&mut refusals, &attempt(1)), Found::PidsMax);
        assert_eq!(found(&mut refusals, &attempt(1)), Found::Unknown);
        if is_gone {
            fs::remove_dir_all(root.path().join("pod")).unwrap();
        } else {
            fs::write(root.path().join("pod/pids.events.local"), "nothing\n").unwrap();
            fs::write(root.path().join("pod/pids.current"), "19\n").unwrap();
        }
        assert_eq!(found(&mut refusals, &attempt(1)), Found::Unread, "gone: {is_gone}");
    }
}

#[test]
fn what_was_refused_before_the_counts_are_known_may_have_been_by_any() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    grow(root.path(), "/pod", true, 7);
    let began = Instant::now();
    refusals.watch(Arc::from(&b"/pod"[..]), false, began);
    let at = |refusals: &mut Refusals, now| attempted(refusals, &attempt(1), now).found;
    assert_eq!(at(&mut refusals, began), Found::Unread);
    assert_eq!(at(&mut refusals, began + Duration::from_secs(2)), Found::Unknown);
}

#[test]
fn what_waits_for_pids_events_is_not_settled() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    let now = Instant::now();
    attempted(&mut refusals, &attempt(2), now);
    assert_eq!(refusals.attempted(&elsewhere(3), now), []);
    assert_eq!(refusals.settled(), 2);
    grow(root.path(), "/pod", true, 1);
    assert_eq!(passed(&mut refusals, now), []);
    assert_eq!(passed(&mut refusals, now + CLAIMED).len(), 1);
    assert_eq!(refusals.settled(), 3);
    assert_eq!(passed(&mut refusals, now + HELD).len(), 1);
    assert_eq!(refusals.settled(), 5);
}

#[test]
fn the_limit_that_is_full_is_named_and_none_where_none_is() {
    let (_root, mut refusals) = machine(1_000, 32_768, true);
    assert_eq!(found(&mut refusals, &attempt(1)), Found::Unknown, "no count has grown");
    let user = Attempt { processes: 40, nproc: Some(40), ..attempt(1) };
    assert_eq!(found(&mut refusals, &user), Found::Other(Limit::Nproc(1_000), 40, 40));
    assert_eq!(found(&mut refusals, &Attempt { processes: 39, ..user }), Found::Unknown);
    let namespace = Attempt { pids: 150, pid_max: Some(400), ..attempt(1) };
    assert_eq!(found(&mut refusals, &namespace), Found::Other(Limit::PidMaxOf(3), 400, 150));
    assert_eq!(found(&mut refusals, &Attempt { pids: 99, ..namespace }), Found::Unknown);
    let (_root, mut refusals) = machine(100, 350, true);
    assert_eq!(found(&mut refusals, &attempt(1)), Found::Other(Limit::ThreadsMax, 100, 100));
    let (_root, mut refusals) = machine(101, 400, true);
    assert_eq!(found(&mut refusals, &attempt(1)), Found::Other(Limit::PidMax, 400, 100));
    let initial = Attempt { pid_ns: INITIAL_PID_NAMESPACE, pids: 120, pid_max: Some(400), ..attempt(1) };
    assert_eq!(found(&mut refusals, &initial), Found::Other(Limit::PidMax, 400, 120));
}

#[test]
fn what_follows_unseen_is_of_the_limit_that_was_seen_before_it() {
    let (root, mut refusals) = machine(100, 32_768, true);
    let first = attempted(&mut refusals, &attempt(1), Instant::now());
    assert_eq!(first.found, Found::Other(Limit::ThreadsMax, 100, 100));
    // It is over.
    fs::write(root.path().join("loadavg"), "8.68 6.07 3.61 7/50 2369\n").unwrap();
    let rest = attempted(&mut refusals, &Attempt { fresh: false, ..attempt(9) }, Instant::now());
    assert_eq!((rest.key(), rest.count), (first.key(), 9));
    // Long after it, or after one of which nothing is known, it is nobody's.
    let late = Instant::now() + FOLLOWS;
    assert_eq!(attempted(&mut refusals, &Attempt { fresh: false, ..attempt(1) }, late).found, Found::Unknown);
    assert_eq!(found(&mut refusals, &attempt(1)), Found::Unknown);
    assert_eq!(found(&mut refusals, &Attempt { fresh: false, ..attempt(1) }), Found::Unknown);
}

#[test]
fn what_follows_has_its_own_forker() {
    let (root, mut refusals) = machine(100, 32_768, true);
    let now = Instant::now();
    attempted(&mut refusals, &attempt(1), now);
    fs::write(root.path().join("loadavg"), "8.68 6.07 3.61 7/50 2369\n").unwrap();
    let told = attempted(&mut refusals, &Attempt { fresh: false, forker: None, ..attempt(2) }, now);
    assert_eq!((told.found, told.who), (Found::Other(Limit::ThreadsMax, 100, 100), None));
}

#[test]
fn a_long_storm_that_two_count_at_different_times_is_told_once() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    let begin = Instant::now();
    let (mut told, mut counted, mut hooked) = (0, 0, 0);
    let sum = |told: Vec<Refusal>| told.iter().map(|refusal| refusal.count).sum::<u64>();
    for tenth in 0..100_u32 {
        let now = begin + Duration::from_millis(100) * tenth;
        counted += 1_000;
        grow(root.path(), "/pod", true, counted);
        assert_eq!(refusals.look(now), []);
        let asks = refusals.wants_counts(now);
        // The hook claims once a second and when it is asked, and was read somewhat before the file.
        if tenth % 10 == 9 || asks {
            let attempt = Attempt { fresh: hooked == 0, ..attempt(counted - 300 - hooked) };
            hooked = counted - 300;
            told += sum(refusals.attempted(&attempt, now));
        }
        if asks {
            told += sum(refusals.handed_over(now));
        }
    }
    assert_eq!((hooked, told), (99_700, 99_700), "the hook has yet to claim what it counted since");
    told +=
        sum(refusals.attempted(&Attempt { fresh: false, ..attempt(300) }, begin + Duration::from_secs(10)));
    assert_eq!((counted, told), (100_000, 100_000));
    assert_eq!((refusals.finish(begin + Duration::from_secs(10)), refusals.due()), (Vec::new(), None));
}

#[test]
fn more_than_pids_max_has_counted_is_another_limits() {
    let (root, mut refusals) = machine(100, 32_768, true);
    grow(root.path(), "/pod", true, 2);
    let told = refusals.attempted(&attempt(9), Instant::now());
    let told: Vec<_> = told.into_iter().map(|told| (told.found, told.count)).collect();
    assert_eq!(told, [(Found::PidsMax, 2), (Found::Other(Limit::ThreadsMax, 100, 100), 7)]);
}

#[test]
fn a_limit_that_nobody_watches_is_looked_at_and_none_that_cannot_be_is_called_not_full() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    let unwatched = |path: &str, current: u64| {
        let directory = root.path().join(&path[1..]);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("pids.max"), "20\n").unwrap();
        fs::write(directory.join("pids.current"), format!("{current}\n")).unwrap();
        fs::write(directory.join("pids.events"), "max 4\n").unwrap();
        Attempt { cgroup: Some(Arc::from(path.as_bytes())), ..attempt(3) }
    };
    let told = attempted(&mut refusals, &unwatched("/full", 20), Instant::now());
    assert_eq!((&told.path[..], told.found.clone(), told.count), (&b"/full"[..], Found::PidsMax, 3));
    assert_eq!(told.level().map(|level| level.current), Some(20));
    assert_eq!(found(&mut refusals, &unwatched("/else", 19)), Found::Unread);
    // From then on its count is known.
    assert_eq!(found(&mut refusals, &unwatched("/else", 19)), Found::Unknown);
    for cgroup in [None, Some(Arc::from(&b"/gone"[..]))] {
        assert_eq!(found(&mut refusals, &Attempt { cgroup, ..attempt(1) }), Found::Unread);
    }
    fs::remove_file(root.path().join("loadavg")).unwrap();
    assert_eq!(found(&mut refusals, &attempt(1)), Found::Unread);
}

#[test]
fn whose_cgroup_is_not_known_is_told_without() {
    let (_root, mut refusals) = machine(100, 32_768, true);
    let told = attempted(&mut refusals, &Attempt { cgroup: None, ..attempt(1) }, Instant::now());
    assert_eq!((told.path.len(), told.forker.as_ref(), told.level()), (0, None, None));
}

/// As the hook sees it where the child was to be born in another cgroup.
fn elsewhere(count: u64) -> Attempt {
    Attempt { who: Who { cgroup: 7, uid: 1_000, elsewhere: 1 }, ..attempt(count) }
}

#[test]
fn a_fork_into_another_cgroup_is_told_by_that_ones_count_and_not_again() {
    for attempt in [elsewhere(3), Attempt { source: Source::Kretprobe, ..attempt(3) }] {
        // Of another branch.
        let attempt = Attempt { cgroup: Some(Arc::from(&b"/"[..])), ..attempt };
        let (root, mut refusals) = machine(1_000, 32_768, true);
        let now = Instant::now();
        assert_eq!(refusals.attempted(&attempt, now), []);
        // Only then is its limit said to have refused them; two are somebody's whom nobody has seen.
        grow(root.path(), "/pod", true, 5);
        assert_eq!(refusals.look(now), []);
        let told = passed(&mut refusals, now + CLAIMED);
        let told: Vec<_> = told.iter().map(|told| (&told.path[..], told.source, told.count)).collect();
        assert_eq!(told, [(&b"/pod"[..], Source::PidsEvents, 5)]);
        assert_eq!((passed(&mut refusals, now + 2 * HELD), refusals.due()), (Vec::new(), None));
    }
}

#[test]
fn a_fork_into_another_cgroup_that_no_count_tells_of_is_not_lost() {
    let (root, mut refusals) = machine(1_000, 32_768, true);
    let now = Instant::now();
    let of = |told: Vec<Refusal>| told.into_iter().map(|told| (told.found, told.count)).collect::<Vec<_>>();
    assert_eq!(refusals.attempted(&elsewhere(3), now), []);
    assert_eq!(refusals.due(), Some(now + HELD));
    assert_eq!(passed(&mut refusals, now + CLAIMED), []);
    // Which cgroup it was is not known, so nobody has looked at its limit.
    assert_eq!(of(passed(&mut refusals, now + HELD)), [(Found::Unread, 3)]);
    // Less than that is counted.
    assert_eq!(refusals.attempted(&elsewhere(3), now), []);
    grow(root.path(), "/pod", true, 2);
    assert_eq!(refusals.look(now), []);
    assert_eq!(of(refusals.finish(now)), [(Found::PidsMax, 2), (Found::Unread, 1)]);
    // Its user's limit is asked first, wherever it is to be born.
    let user = Attempt { processes: 40, nproc: Some(40), ..elsewhere(1) };
    assert_eq!(found(&mut refusals, &user), Found::Other(Limit::Nproc(1_000), 40, 40));
    // What was full then is said, when no count is the reason.
    fs::write(root.path().join("loadavg"), "8.68 6.07 3.61 7/1000 2369\n").unwrap();
    assert_eq!(refusals.attempted(&elsewhere(1), now), []);
    assert_eq!(of(passed(&mut refusals, now + HELD)), [(Found::Other(Limit::ThreadsMax, 1_000, 1_000), 1)]);
}

#[test]
fn of_a_user_namespace_nothing_is_said_that_another_limit_around_it_may_be() {
    let (_root, mut refusals) = machine(1_000, 32_768, true);
    let nested = Attempt { unread: true, ..attempt(1) };
    assert_eq!(found(&mut refusals, &nested), Found::Unread);
    let namespace = Attempt { pids: 150, pid_max: Some(400), ..nested };
    assert_eq!(found(&mut refusals, &namespace), Found::Unread);
    assert_eq!(
        found(&mut refusals, &Attempt { pids: 400, ..namespace }),
        Found::Other(Limit::PidMaxOf(3), 400, 400)
    );
}

#[test]
fn a_limit_deep_between_others_says_itself_that_it_was_hit_and_no_other_is_named_for_it() {
    for says in [true, false] {
        let (root, mut refusals) = machine(10_000, 32_768, true);
        let path = |depth: usize| "/c".repeat(depth);
        let directory = |depth: usize| root.path().join(&path(depth)[1..]);
        for depth in 1..=100 {
            fs::create_dir(directory(depth)).unwrap();
            // All are full: the outer ones nobody watches.
            for (file, text) in
                [("pids.current", "9\n"), ("pids.max", if depth > 50 { "max\n" } else { "9\n" })]
            {
                fs::write(directory(depth).join(file), text).unwrap();
            }
        }
        grow(root.path(), &path(50), true, 0);
        let now = Instant::now();
        refusals.watch(Arc::from(path(50).as_bytes()), true, now);
        let deep = Attempt { cgroup: Some(Arc::from(path(100).as_bytes())), ..attempt(3) };
        let before = refusals.files().opened();
        assert_eq!(refusals.attempted(&deep, now), []);
        assert!(refusals.files().opened() - before <= 200, "{} files", refusals.files().opened() - before);
        if says {
            grow(root.path(), &path(50), true, 3);
        }
        let told: Vec<_> =
            [now, now + CLAIMED, now + HELD].into_iter().flat_map(|now| passed(&mut refusals, now)).collect();
        assert_eq!(told.iter().map(|refusal| refusal.count).collect::<Vec<_>>(), [3]);
        let level = told[0].level().map(|level| level.path.to_vec());
        assert_eq!(level, says.then(|| path(50).into_bytes()));
        assert_eq!(told[0].found, if says { Found::PidsMax } else { Found::Unread });
    }
}
