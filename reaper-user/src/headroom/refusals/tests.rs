use std::fs;

use super::{log::logged_path, *};
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
