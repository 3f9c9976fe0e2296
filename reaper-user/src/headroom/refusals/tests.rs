use std::fs;

use super::{
    log::logged_path,
    watching::{AGAIN, CLEANED_APART},
    *,
};
use crate::headroom::Level;

#[test]
fn the_log_names_the_forkers_cgroup_and_nothing_else_is_taken_for_it() {
    let of = |text: &[u8]| logged_path(text).map(|path| path.to_vec());
    let whole =
        b"6,518,14333742033,-;cgroup: fork rejected by pids controller in /pod/my\\x20box\n SUBSYSTEM=x\n";
    assert_eq!(of(whole), Some(b"/pod/my box".to_vec()));
    for other in [
        &b"6,1,2,-;cgroup: fork rejected by pids controller in \n"[..],
        b"6,1,2,-;somebody: cgroup: fork rejected by pids controller in /x\n",
        b"12,1,2,-;cgroup: other\n",
        b"nothing",
    ] {
        assert_eq!(of(other), None);
    }
}

fn level(path: &str, max: Option<u64>, current: u64) -> Level {
    Level { path: Arc::from(path.as_bytes()), max, current, threads: None, processes: None }
}

#[test]
fn the_limit_is_found_from_where_the_kernel_counts() {
    let levels =
        vec![level("/pod/box", Some(100), 40), level("/pod", Some(256), 255), level("/x", None, 900)];
    let path: CgroupPath = Arc::from(&b"/pod/box"[..]);
    let (source, found) = (Source::KernelLog, Found::PidsMax);
    let refusal = Refusal { path, at_limit: false, forker: None, count: 1, source, levels, found, who: None };
    assert_eq!(refusal.level().unwrap().path[..], b"/pod"[..]);
    assert_eq!(Refusal { at_limit: true, ..refusal.clone() }.level().unwrap().path[..], b"/pod/box"[..]);
    assert_eq!(Refusal { found: Found::Unknown, ..refusal }.level(), None);
}

/// Files that are written are notified of as well.
#[test]
fn a_change_is_told_once_with_how_many_and_what_was_before_is_not() {
    let root = tempfile::tempdir().unwrap();
    let events = |path: &str, count: u64| {
        let directory = root.path().join(path);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("pids.current"), "9\n").unwrap();
        fs::write(directory.join("pids.max"), "10\n").unwrap();
        fs::write(directory.join("pids.events"), format!("max {count}\n")).unwrap();
    };
    events("old", 5);
    events("new", 0);
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    refusals.watch(Arc::from(&b"/old"[..]), false, now);
    refusals.watch(Arc::from(&b"/new"[..]), true, now);
    assert_eq!(refusals.look(now), []);
    events("old", 7);
    let told = refusals.look(now);
    let [Refusal { path, count: 2, at_limit: false, source: Source::PidsEvents, levels, .. }] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!((&path[..], levels.len()), (&b"/old"[..], 1));
    assert_eq!(refusals.look(now), []);
    events("new", 1);
    assert_eq!(refusals.look(now).len(), 1);
    assert_eq!(refusals.lost(), Lost::default());
}

/// Watches that the kernel has for it.
fn watches(refusals: &Refusals) -> usize {
    let inotify = refusals.inotify.as_ref().unwrap();
    let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(inotify));
    fs::read_to_string(info).unwrap().lines().filter(|line| line.starts_with("inotify wd:")).count()
}

#[test]
fn one_path_that_is_made_again_and_again_takes_one_watch() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    let (directory, moved) = (root.path().join("x.service"), root.path().join("old"));
    fs::create_dir(&moved).unwrap();
    for number in 0..2 * CLEANED_FROM {
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("pids.events"), "max 0\n").unwrap();
        refusals.watch(Arc::from(&b"/x.service"[..]), true, now);
        // Of a cgroup's file the kernel does not say that it is gone, as of one that is only moved.
        fs::rename(&directory, moved.join(number.to_string())).unwrap();
    }
    assert_eq!((refusals.watched.len(), watches(&refusals)), (1, 1));
    // It is gone when it is looked at.
    let known = Refused { count: 3, at_limit: false, cgroup: 1 };
    refusals.counts.insert(Arc::from(&b"/x.service"[..]), known);
    assert_eq!(refusals.check(Arc::from(&b"/x.service"[..]), Source::Reading, now), Err(Uncounted));
    assert_eq!(refusals.counts.len(), 0);
    assert_eq!(refusals.lost(), Lost::default());
}

#[test]
fn what_the_log_told_of_before_a_cgroup_is_watched_is_not_told_again() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("x/pids.events");
    fs::create_dir_all(root.path().join("x")).unwrap();
    fs::write(&file, "max 2\n").unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    let path: CgroupPath = Arc::from(&b"/x"[..]);
    assert_eq!(refusals.check(Arc::clone(&path), Source::KernelLog, now).unwrap().unwrap().count, 2);
    refusals.watch(Arc::clone(&path), true, now);
    assert_eq!(refusals.check(Arc::clone(&path), Source::PidsEvents, now), Ok(None));
    // Another one of the same name begins anew, also where it has come further than the one before.
    for (number, count) in [7, 1].into_iter().enumerate() {
        fs::rename(root.path().join("x"), root.path().join(format!("old-{number}"))).unwrap();
        fs::create_dir(root.path().join("x")).unwrap();
        fs::write(&file, format!("max {count}\n")).unwrap();
        refusals.watch(Arc::clone(&path), true, now);
        assert_eq!(refusals.check(Arc::clone(&path), Source::PidsEvents, now).unwrap().unwrap().count, count);
        // Or it is read before anybody has said that it is another one.
        assert_eq!(refusals.check(Arc::clone(&path), Source::PidsEvents, now), Ok(None));
    }
}

#[test]
fn who_finds_no_place_to_wait_for_its_controller_is_counted() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    for number in 0..UNBORN + 3 {
        refusals.watch(Arc::from(format!("/c{number}").as_bytes()), true, now);
    }
    assert_eq!((refusals.unborn.len(), refusals.lost().unwatched), (UNBORN, 3));
}

#[test]
fn a_count_that_cannot_be_read_is_counted_as_lost_and_read_again() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("x/pids.events");
    fs::create_dir_all(root.path().join("x")).unwrap();
    fs::write(&file, "max 1\n").unwrap();
    let files = Files::at(Hierarchy::V1Pids, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    refusals.watch(Arc::from(&b"/x"[..]), false, now);
    fs::write(&file, "nothing\n").unwrap();
    assert_eq!(refusals.look(now + Duration::from_secs(1)), []);
    assert_eq!(refusals.lost().unwatched, 1);
    fs::write(&file, "max 3\n").unwrap();
    let told = refusals.look(now + Duration::from_secs(2));
    assert_eq!(told.iter().map(|refusal| refusal.count).collect::<Vec<_>>(), [2]);
}

#[test]
fn what_is_gone_is_let_go_and_watched_anew_when_it_comes_again() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    for number in 0..CLEANED_FROM + 1 {
        let name = format!("/c{number}");
        let directory = root.path().join(&name[1..]);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("pids.events"), "max 0\n").unwrap();
        refusals.watch(Arc::from(name.as_bytes()), true, now);
        if number < CLEANED_FROM {
            fs::remove_dir_all(&directory).unwrap();
        }
    }
    assert_eq!(refusals.watched.len(), 1);
    // It was made, and has no controller yet.
    refusals.watch(Arc::from(&b"/late"[..]), true, now);
    assert!(refusals.due().is_some());
    fs::create_dir(root.path().join("late")).unwrap();
    fs::write(root.path().join("late/pids.events"), "max 0\n").unwrap();
    assert_eq!(refusals.look(now + AGAIN[0]), []);
    assert_eq!((refusals.watched.len(), refusals.due()), (2, None));
}

/// So many cgroups in each other, `/c/c/…`, without a limit; none has refused a fork.
fn chain(root: &std::path::Path, depth: usize) -> impl Fn(usize) -> CgroupPath {
    let path = |depth: usize| -> CgroupPath { Arc::from("/c".repeat(depth).as_bytes()) };
    for level in 1..=depth {
        let directory = root.join(&"/c".repeat(level)[1..]);
        fs::create_dir(&directory).unwrap();
        for (file, text) in [("pids.current", "9\n"), ("pids.max", "max\n"), ("pids.events", "max 0\n")] {
            fs::write(directory.join(file), text).unwrap();
        }
    }
    path
}

#[test]
fn however_deep_a_cgroup_is_little_is_read_and_what_is_not_read_is_nobody_elses_limit() {
    let root = tempfile::tempdir().unwrap();
    let path = chain(root.path(), 500);
    let write = |depth: usize, file: &str, text: &str| {
        fs::write(root.path().join(&"/c".repeat(depth)[1..]).join(file), text).unwrap();
    };
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files.clone(), false), Instant::now());
    refusals.watch(path(500), true, now);
    let mut count = 0;
    let mut refused = |refusals: &mut Refusals| {
        count += 1;
        write(500, "pids.events", &format!("max {count}\n"));
        let before = files.opened();
        let mut told = refusals.look(now);
        assert!(files.opened() - before <= 70, "{} files", files.opened() - before);
        assert_eq!(told.len(), 1);
        told.remove(0).level().map(|level| Arc::clone(&level.path))
    };
    // By one that is not looked at: it is not said to be the outer one's, which is full as well.
    write(200, "pids.max", "9\n");
    write(3, "pids.max", "9\n");
    assert_eq!(refused(&mut refusals), None);
    assert_eq!(refusals.lost().unwatched, 1);
    // Further in all are looked at.
    write(490, "pids.max", "9\n");
    assert_eq!(refused(&mut refusals), Some(path(490)));
    assert_eq!(refusals.lost().unwatched, 1);
    // Where it is counted at the limit it is the deepest one's, too, and nothing else is read.
    write(200, "pids.events.local", "max 0\n");
    refusals.watch(path(200), true, now);
    write(200, "pids.events.local", "max 4\n");
    let before = files.opened();
    let told = refusals.look(now);
    assert_eq!((told.len(), told[0].level().map(|level| &level.path)), (1, Some(&path(200))));
    assert!(files.opened() - before <= 5);
}

#[test]
fn who_has_no_limit_any_more_leaves_it_to_nobody() {
    let whole = vec![level("/pod/box", Some(10), 10), level("/pod", Some(30_000), 500)];
    let path: CgroupPath = Arc::from(&b"/pod/box"[..]);
    let (source, found) = (Source::KernelLog, Found::PidsMax);
    for at_limit in [true, false] {
        let (path, levels, found) = (Arc::clone(&path), whole.clone(), found.clone());
        let mut refusal =
            Refusal { path, at_limit, forker: None, count: 1, source, levels, found, who: None };
        assert_eq!(refusal.level(), Some(&whole[0]));
        // The box was removed before it was read.
        refusal.levels.remove(0);
        assert_eq!(refusal.level(), None);
    }
}

#[test]
fn many_that_refuse_at_once_are_looked_at_in_turns_and_each_once() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    let all = 2 * LOOKED_AT + 3;
    let events = |number: usize, text: &str| {
        fs::write(root.path().join(format!("c{number}/pids.events")), text).unwrap();
    };
    for number in 0..all {
        fs::create_dir(root.path().join(format!("c{number}"))).unwrap();
        events(number, "max 0\n");
        refusals.watch(Arc::from(format!("/c{number}").as_bytes()), true, now);
    }
    (0..all).for_each(|number| events(number, "max 2\n"));
    let (mut told, mut turns) = (Vec::new(), 0);
    while turns == 0 || refusals.is_behind() {
        let before = told.len();
        told.extend(refusals.look(now));
        assert!(told.len() - before <= LOOKED_AT);
        assert_eq!(refusals.due(), refusals.is_behind().then_some(now));
        turns += 1;
    }
    assert!(turns >= 3);
    told.sort_by(|one, other| one.path.cmp(&other.path));
    told.dedup_by(|one, other| one.path == other.path);
    assert_eq!((told.len(), told.iter().map(|refusal| refusal.count).sum::<u64>()), (all, 2 * all as u64));
    assert_eq!(refusals.look(now), []);
    // At the end all is looked at.
    (0..all).for_each(|number| events(number, "max 5\n"));
    assert_eq!(refusals.finish(now).iter().map(|refusal| refusal.count).sum::<u64>(), 3 * all as u64);
}

#[test]
fn where_all_places_are_taken_the_next_ones_cost_nothing_and_are_counted() {
    let root = tempfile::tempdir().unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files.clone(), false), Instant::now());
    for number in 0..64 {
        fs::create_dir(root.path().join(format!("c{number}"))).unwrap();
        // The kernel may not give so many watches, and so many folders take long: each goes by many names.
        let names = (0..WATCHES / 64).map(|name| format!("/c{number}{}", "/.".repeat(name)));
        refusals.watched.extend(names.map(|name| (Arc::from(name.as_bytes()), -1)));
    }
    assert_eq!(refusals.watched.len(), WATCHES);
    let come_and_go = |refusals: &mut Refusals, now| {
        let directory = root.path().join("x");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("pids.events"), "max 0\n").unwrap();
        refusals.watch(Arc::from(&b"/x"[..]), true, now);
        fs::remove_dir_all(&directory).unwrap();
    };
    for _ in 0..50 {
        come_and_go(&mut refusals, now);
    }
    assert_eq!(refusals.lost().unwatched, 50);
    assert!(files.opened() <= WATCHES as u64 + 50, "{} looked for", files.opened());
    // Later it is seen that some have gone.
    fs::remove_dir(root.path().join("c0")).unwrap();
    come_and_go(&mut refusals, now + CLEANED_APART);
    assert_eq!((refusals.lost().unwatched, refusals.watched.len()), (50, WATCHES - WATCHES / 64 + 1));
}

#[test]
fn counts_of_those_that_nobody_watches_go_with_them_and_are_not_endless() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("x")).unwrap();
    fs::write(root.path().join("x/pids.events"), "max 3\n").unwrap();
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    let known = Refused { count: 3, at_limit: false, cgroup: 1 };
    let path = |number: usize| -> CgroupPath { Arc::from(format!("/c{number}").as_bytes()) };
    refusals.counts.extend((0..WATCHES).map(|number| (path(number), known)));
    // Those are gone, and make room.
    let x: CgroupPath = Arc::from(&b"/x"[..]);
    assert!(refusals.check(Arc::clone(&x), Source::KernelLog, now).unwrap().is_some());
    assert_eq!(refusals.counts.keys().collect::<Vec<_>>(), [&x]);
    // Where they are not gone it is not told, for it would be again and again.
    refusals.counts.clear();
    refusals.clean_after = now + CLEANED_APART;
    refusals.counts.extend((0..WATCHES).map(|number| (path(number), known)));
    for lost in 1..3 {
        assert_eq!(refusals.check(Arc::clone(&x), Source::KernelLog, now), Err(Uncounted));
        assert_eq!((refusals.counts.len(), refusals.lost().unwatched), (WATCHES, lost));
    }
    // One that is watched always has a place.
    refusals.watched.insert(Arc::clone(&x), -1);
    assert_eq!(refusals.check(x, Source::PidsEvents, now).unwrap().unwrap().count, 3);
}

/// The log is there before the watch of a new cgroup is.
#[test]
fn what_is_refused_between_the_kernels_log_and_the_watch_is_told() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("x")).unwrap();
    let events = |text: &str| fs::write(root.path().join("x/pids.events"), text).unwrap();
    events("max 14\n");
    let files = Files::at(Hierarchy::V2, root.path(), root.path());
    let (mut refusals, now) = (Refusals::new(files, false), Instant::now());
    let x: CgroupPath = Arc::from(&b"/x"[..]);
    let first = refusals.check(Arc::clone(&x), Source::KernelLog, now).unwrap().unwrap();
    events("max 50\n");
    refusals.watch(x, true, now);
    let told: Vec<_> = refusals.look(now).iter().map(|refusal| refusal.count).collect();
    assert_eq!((first.count, told), (14, vec![36]));
    assert_eq!(refusals.look(now), []);
}
