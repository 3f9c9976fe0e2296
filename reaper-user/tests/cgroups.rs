//! Ids of real cgroups on this machine's own hierarchies. Needs root, and runc for one test.
#![cfg(test)]

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use reaper::workload::{
    CgroupId, Cgroups, Hierarchy, Kind, Limits, Made, Mounts, Runtime, RuntimeStates, Trouble, Workload,
    Workloads,
};

/// A cgroup that this test made; removed with everything below it when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(point: &Path, name: impl AsRef<Path>) -> Self {
        let directory = point.join(name);
        fs::create_dir_all(&directory).unwrap_or_else(|error| {
            panic!("{}: {error}; run as root: sudo -E cargo test -p reaper-user", directory.display())
        });
        Self(directory)
    }

    fn id(&self, hierarchy: Hierarchy) -> CgroupId {
        CgroupId { hierarchy, id: fs::metadata(&self.0).unwrap().ino() }
    }

    fn remove(&self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let mut below: Vec<PathBuf> = fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.is_dir())
            .collect();
        below.push(self.0.clone());
        for directory in below {
            drop(fs::remove_dir(directory));
        }
    }
}

/// Both hierarchies where both are mounted, else the one that is.
fn points() -> BTreeMap<Hierarchy, PathBuf> {
    let mounts = Mounts::parse(&fs::read("/proc/self/mountinfo").unwrap());
    let first = |list: Vec<_>| -> Option<PathBuf> {
        list.into_iter().next().map(|mount: reaper::workload::Mount| mount.point)
    };
    let points: BTreeMap<_, _> =
        [(Hierarchy::V2, first(mounts.v2)), (Hierarchy::V1Pids, first(mounts.v1_pids))]
            .into_iter()
            .filter_map(|(hierarchy, point)| point.map(|point| (hierarchy, point)))
            .collect();
    assert!(!points.is_empty(), "no cgroups: mount -t cgroup2 none /sys/fs/cgroup");
    points
}

fn open() -> Cgroups {
    let cgroups = Cgroups::open(Path::new("/proc"), Limits::default());
    assert!(cgroups.troubles().is_empty(), "{:?}; run as root: sudo -E cargo test", cgroups.troubles());
    cgroups
}

fn name(test: &str) -> String {
    format!("reaper-test-{test}-{}", std::process::id())
}

#[test]
fn an_id_resolves_while_its_cgroup_stands_and_stays_known_after() {
    for (hierarchy, point) in points() {
        let name = name("made");
        let cgroup = Cgroup::new(&point, format!("{name}/inner"));
        let _outer = Cgroup(point.join(&name));
        let (mut first, mut late) = (open(), open());
        let id = cgroup.id(hierarchy);
        assert_eq!(first.made(id, 0), Made::Known, "{hierarchy}");
        cgroup.remove();

        let expected = format!("/{name}/inner");
        assert_eq!(&*first.path(id).unwrap(), expected.as_bytes(), "{hierarchy}");
        assert_eq!(first.made(id, 0), Made::Known);
        // Whoever comes too late learns nothing, and is told to look again only so often.
        assert_eq!(late.path(id), None);
        let tries: Vec<Made> = (0..4).map(|attempt| late.made(id, attempt)).collect();
        let again = |millis| Made::Again(Duration::from_millis(millis));
        assert_eq!(tries, [again(1), again(5), again(20), Made::Unknown]);

        // The same name made again is another cgroup.
        let again = Cgroup::new(&point, format!("{name}/inner"));
        assert_ne!(again.id(hierarchy), id);
        assert_eq!(&*late.path(again.id(hierarchy)).unwrap(), expected.as_bytes());
        assert_eq!(late.path(id), None);
    }
}

#[test]
fn a_walk_knows_what_find_knows() {
    let points = points();
    let made: Vec<_> = points.values().map(|point| Cgroup::new(point, name("walk"))).collect();
    let mut found = Vec::new();
    for (&hierarchy, point) in &points {
        let mut find = Command::new("find");
        find.arg(point).args(["-mindepth", "1", "-type", "d", "-printf", "%i %P\\n"]);
        for line in String::from_utf8_lossy(&find.output().unwrap().stdout).lines() {
            let (id, path) = line.split_once(' ').unwrap();
            found.push((CgroupId { hierarchy, id: id.parse().unwrap() }, path.to_owned()));
        }
    }
    let mut cgroups = open();
    assert!(!cgroups.walk().cut);
    assert!(cgroups.len() >= made.len());
    for (id, path) in found {
        if cgroups.knows(id) {
            assert_eq!(&*cgroups.path(id).unwrap(), format!("/{path}").as_bytes());
        } else {
            assert!(!points[&id.hierarchy].join(&path).exists(), "{path} is missing");
        }
    }
}

#[test]
fn names_with_strange_bytes_and_names_that_look_deleted_resolve() {
    for (hierarchy, point) in points() {
        let names = [&b"\x1b[2J\xff\xe2\x80\xae"[..], b"x (deleted)", b" ", b"a:b\\040"];
        for bytes in names {
            let mut whole = name("bytes").into_bytes();
            whole.extend_from_slice(bytes);
            let cgroup = Cgroup::new(&point, Path::new(std::ffi::OsStr::from_bytes(&whole)));
            let path = open().path(cgroup.id(hierarchy)).unwrap();
            assert_eq!(path[1..], whole[..]);
            let workload = Workload::from_cgroup(&path);
            assert!(!workload.cgroup.unwrap().as_str().contains(['\x1b', '\u{202e}']));
        }
    }
}

#[test]
fn an_id_of_one_hierarchy_does_not_resolve_in_the_other() {
    let points = points();
    let mut cgroups = open();
    for (&from, point) in &points {
        let to = match from {
            Hierarchy::V2 => Hierarchy::V1Pids,
            Hierarchy::V1Pids => Hierarchy::V2,
        };
        // Enough to pass the numbers that the other hierarchy has used.
        let made: Vec<Cgroup> =
            (0..20).map(|number| Cgroup::new(point, format!("{}{from}{number}", name("both")))).collect();
        for cgroup in made {
            let id = cgroup.id(from);
            let other = CgroupId { hierarchy: to, ..id };
            // The same number may be another cgroup's there; where that hierarchy is not mounted it is nobody's.
            if let Some(path) = cgroups.path(other) {
                let directory = points[&to].join(std::ffi::OsStr::from_bytes(&path[1..]));
                assert_eq!(fs::metadata(&directory).unwrap().ino(), other.id, "{directory:?}");
            }
        }
        // Files of a hierarchy are numbered with its cgroups.
        let file = fs::metadata(point.join("cgroup.procs")).unwrap().ino();
        assert_eq!(cgroups.path(CgroupId { hierarchy: from, id: file }), None, "{from}");
    }
}

#[test]
fn the_v1_hierarchy_has_the_number_that_proc_gives_it() {
    let number = open().v1_pids_number();
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let line =
        text.lines().find(|line| line.split(':').nth(1).is_some_and(|on| on.split(',').any(|c| c == "pids")));
    assert_eq!(number, line.map(|line| line.split(':').next().unwrap().parse().unwrap()));
}

#[test]
fn only_gone_cgroups_that_no_zombie_is_in_are_let_go_and_only_after_a_while() {
    for (hierarchy, point) in points() {
        let limits = Limits { entries: 4, keep_gone: Duration::from_secs(60) };
        let mut cgroups = Cgroups::open(Path::new("/proc"), limits);
        let [stands, used, gone, more, over] =
            ["a", "b", "c", "d", "e"].map(|part| Cgroup::new(&point, format!("{}{part}", name("prune"))));
        let ids = [&stands, &used, &gone, &more].map(|cgroup| cgroup.id(hierarchy));
        for id in ids {
            assert_eq!(cgroups.made(id, 0), Made::Known);
        }
        assert_eq!(cgroups.made(over.id(hierarchy), 0), Made::Known);
        assert_eq!((cgroups.len(), cgroups.counts().turned_away), (4, 1));
        for cgroup in [&used, &gone, &more] {
            cgroup.remove();
        }
        let now = Instant::now();
        let in_use = |id| id == ids[1];
        cgroups.prune(now, in_use);
        cgroups.prune(now + Duration::from_secs(59), in_use);
        assert_eq!((cgroups.len(), cgroups.counts().evicted), (4, 0));
        // No longer crowded after the first one went, so the rest goes a share at a time.
        for _ in 0..8 {
            cgroups.prune(now + Duration::from_secs(60), in_use);
        }
        assert_eq!(ids.map(|id| cgroups.knows(id)), [true, true, false, false]);
        assert_eq!(cgroups.counts().evicted, 2);
    }
}

#[test]
fn without_the_capability_it_says_so_and_still_knows_what_it_walked() {
    const CHILD: &str = "REAPER_TEST_WITHOUT_CAPABILITY";
    if env::var_os(CHILD).is_none() {
        let this = "without_the_capability_it_says_so_and_still_knows_what_it_walked";
        let output = Command::new("setpriv")
            .args(["--bounding-set", "-dac_read_search", "--inh-caps", "-all"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("setpriv: apt-get install util-linux");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let points = points();
    let made: Vec<_> =
        points.iter().map(|(&hierarchy, point)| (hierarchy, Cgroup::new(point, name("nocap")))).collect();
    let mut cgroups = Cgroups::open(Path::new("/proc"), Limits::default());
    assert_eq!(cgroups.troubles().len(), points.len());
    for trouble in cgroups.troubles() {
        let Trouble::NoHandles { source, .. } = trouble else { panic!("{trouble}") };
        assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(trouble.to_string().contains("grant CAP_DAC_READ_SEARCH"), "{trouble}");
    }
    for (hierarchy, cgroup) in &made {
        assert_eq!(cgroups.made(cgroup.id(*hierarchy), 0), Made::Unknown);
        assert_eq!(cgroups.path(cgroup.id(*hierarchy)), None);
    }
    cgroups.walk();
    for (hierarchy, cgroup) in &made {
        assert!(cgroups.path(cgroup.id(*hierarchy)).unwrap().ends_with(name("nocap").as_bytes()));
    }
    // Nobody can tell that one is gone, so it is kept.
    cgroups.prune(Instant::now(), |_| false);
    assert_eq!(cgroups.counts().evicted, 0);
}

/// A container that runc runs in the background from the host's own programs.
struct Container {
    id: String,
    bundle: tempfile::TempDir,
}

impl Container {
    fn run(id: &str, cgroup: Option<&str>) -> Self {
        let bundle = tempfile::tempdir().unwrap();
        let root = bundle.path().join("rootfs");
        fs::create_dir_all(root.join("usr")).unwrap();
        for link in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        // Made now, so that what is half made is deleted, too.
        let this = Self { id: id.to_owned(), bundle };
        let directory = this.bundle.path();
        let runc = |args: &[&str]| {
            let mut runc = Command::new("runc");
            // What a container in the background inherits must not be a pipe that somebody reads to its end.
            runc.args(args)
                .current_dir(directory)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let status = runc.status().expect("runc: apt-get install runc");
            assert!(status.success(), "runc {args:?}");
        };
        runc(&["spec"]);
        let file = directory.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/sleep", "1000"]);
        let usr = serde_json::json!(
            {"destination": "/usr", "type": "none", "source": "/usr", "options": ["bind", "ro"]}
        );
        config["mounts"].as_array_mut().unwrap().push(usr);
        if let Some(cgroup) = cgroup {
            config["linux"]["cgroupsPath"] = cgroup.into();
        }
        fs::write(file, config.to_string()).unwrap();
        runc(&["run", "--detach", id]);
        this
    }

    /// Ids of the cgroups that its first process is in.
    fn cgroups(&self) -> (u64, u64) {
        let state = Command::new("runc").args(["state", &self.id]).output().unwrap().stdout;
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let text = fs::read(format!("/proc/{}/cgroup", state["pid"])).unwrap();
        let own = reaper::workload::ProcCgroups::parse(&text);
        let points = points();
        let id = |hierarchy, path: Option<&[u8]>| {
            let (point, path) = (points.get(&hierarchy)?, path?);
            Some(fs::metadata(point.join(std::ffi::OsStr::from_bytes(&path[1..]))).unwrap().ino())
        };
        (id(Hierarchy::V2, own.v2).unwrap_or(0), id(Hierarchy::V1Pids, own.v1_pids).unwrap_or(0))
    }

    fn delete(&self) {
        drop(Command::new("runc").args(["delete", "--force", &self.id]).stderr(Stdio::null()).status());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.delete();
    }
}

#[test]
fn a_container_of_plain_runc_is_named_wherever_its_cgroup_is() {
    let literal = name("x");
    let literal = format!("system.slice:cri:{literal}");
    let path = format!("/{}", name("elsewhere"));
    for (id, cgroup) in [(name("runc"), None), (name("path"), Some(&path)), (name("colon"), Some(&literal))] {
        let container = Container::run(&id, cgroup.map(String::as_str));
        let (v2, v1) = container.cgroups();
        let mut workloads = Workloads::new(open(), RuntimeStates::at(Path::new("/")), 16);
        workloads.cgroups().walk();
        let workload = workloads.of(v2, v1);
        let Workload { kind, id: found, runtime, .. } = &workload;
        let expected = if cgroup == Some(&literal) { name("x") } else { id };
        assert_eq!(found.as_ref().map(|id| id.as_str()), Some(&*expected), "{workload:?}");
        assert_eq!((*kind, *runtime), (Kind::Container, Some(Runtime::Oci)));
        container.delete();
        assert_eq!(workloads.of(v2, v1), workload, "after it is gone");
        let later = Instant::now() + Limits::default().keep_gone + Duration::from_secs(60);
        for (in_use, expected) in [(true, Some(workload.cgroup)), (false, Some(None))] {
            // A share is looked at each time: first each is found to be gone, then it is let go.
            for now in std::iter::repeat_n(Instant::now(), 20).chain(std::iter::repeat_n(later, 40)) {
                workloads.prune(now, |_| in_use);
            }
            assert_eq!(Some(workloads.of(v2, v1).cgroup), expected, "in use: {in_use}");
        }
    }
}
