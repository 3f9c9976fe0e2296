use std::os::unix::fs::symlink;

use super::*;

fn id(hierarchy: Hierarchy, directory: &Path) -> CgroupId {
    CgroupId { hierarchy, id: fs::metadata(directory).unwrap().ino() }
}

fn path(cgroups: &mut Cgroups, id: CgroupId) -> Option<String> {
    cgroups.path(id).map(|path| String::from_utf8(path.to_vec()).unwrap())
}

#[test]
fn a_walk_learns_every_directory_of_both_trees_and_follows_no_link() {
    let (v2, v1) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir_all(v2.path().join("a/b/c")).unwrap();
    fs::create_dir_all(v1.path().join("x")).unwrap();
    fs::create_dir(outside.path().join("inside")).unwrap();
    fs::write(v2.path().join("a/cgroup.procs"), "").unwrap();
    symlink(outside.path(), v2.path().join("a/link")).unwrap();

    let mut cgroups = Cgroups::at(Some(v2.path()), Some(v1.path()), Limits::default()).unwrap();
    assert_eq!(cgroups.walk(), Walked { known: 4, cut: false });
    for directory in ["/a", "/a/b", "/a/b/c"] {
        let id = id(Hierarchy::V2, &v2.path().join(&directory[1..]));
        assert_eq!(path(&mut cgroups, id).unwrap(), directory);
    }
    let x = id(Hierarchy::V1Pids, &v1.path().join("x"));
    assert_eq!(path(&mut cgroups, x).unwrap(), "/x");
    // The same number in the other hierarchy is another cgroup.
    assert!(!cgroups.knows(CgroupId { hierarchy: Hierarchy::V2, ..x }));
    assert!(!cgroups.knows(id(Hierarchy::V2, &outside.path().join("inside"))));
}

#[test]
fn what_was_walked_is_still_known_when_it_is_gone() {
    let v2 = tempfile::tempdir().unwrap();
    let directory = v2.path().join("a");
    fs::create_dir(&directory).unwrap();
    let id = id(Hierarchy::V2, &directory);
    let mut cgroups = Cgroups::at(Some(v2.path()), None, Limits::default()).unwrap();
    cgroups.walk();
    fs::remove_dir(&directory).unwrap();
    assert_eq!(path(&mut cgroups, id).unwrap(), "/a");
    cgroups.walk();
    assert_eq!(path(&mut cgroups, id).unwrap(), "/a");
}

#[test]
fn a_full_store_keeps_the_shallow_cgroups_and_counts_the_others() {
    let v2 = tempfile::tempdir().unwrap();
    for top in ["a", "b", "c"] {
        fs::create_dir_all(v2.path().join(top).join("deep/deeper")).unwrap();
    }
    let mut cgroups = Cgroups::at(Some(v2.path()), None, Limits { entries: 4, ..Limits::default() }).unwrap();
    assert_eq!(cgroups.walk(), Walked { known: 4, cut: true });
    for top in ["a", "b", "c"] {
        assert!(cgroups.knows(id(Hierarchy::V2, &v2.path().join(top))));
    }
    assert!(cgroups.is_crowded());
    assert_eq!(cgroups.counts().turned_away, 1);
}

#[test]
fn the_root_is_known_without_being_looked_up() {
    let mut cgroups = Cgroups::open(Path::new("/nonexistent"), Limits::default());
    for hierarchy in [Hierarchy::V2, Hierarchy::V1Pids] {
        assert_eq!(path(&mut cgroups, CgroupId { hierarchy, id: ROOT }).unwrap(), "/");
        assert_eq!(path(&mut cgroups, CgroupId { hierarchy, id: 77 }), None);
        assert_eq!(cgroups.made(CgroupId { hierarchy, id: 77 }, 0), Made::Unknown);
    }
    assert_eq!(cgroups.counts().unresolved, 2);
}

#[test]
fn troubles_name_what_is_missing() {
    let proc = tempfile::tempdir().unwrap();
    let troubles = || {
        let cgroups = Cgroups::open(proc.path(), Limits::default());
        cgroups.troubles().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(troubles()[0].contains("self/mountinfo: No such file"), "{:?}", troubles());

    fs::create_dir(proc.path().join("self")).unwrap();
    fs::write(proc.path().join("self/mountinfo"), "1 0 0:1 / / rw - tmpfs t rw\n").unwrap();
    assert!(troubles()[0].starts_with("neither cgroup v2 nor"), "{:?}", troubles());

    // What is mounted there is not what mountinfo says: it was covered by something else.
    let line = format!("1 0 7:1 / {} rw - cgroup2 c rw\n", proc.path().display());
    fs::write(proc.path().join("self/mountinfo"), line).unwrap();
    assert!(troubles()[0].contains("whole hierarchy of cgroup v2"), "{:?}", troubles());
}

#[test]
fn the_number_of_the_v1_hierarchy_is_taken_from_proc() {
    let proc = tempfile::tempdir().unwrap();
    fs::write(proc.path().join("cgroups"), "#name\thierarchy\npids\t8\t1\t1\n").unwrap();
    assert_eq!(Cgroups::open(proc.path(), Limits::default()).v1_pids_number(), Some(8));
}
