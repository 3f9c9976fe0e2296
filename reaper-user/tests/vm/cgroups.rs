//! Whose a zombie is, in each layout of cgroups.

use std::{fs, path::Path};

use crate::{daemon::Daemon, holder::Holder, require_vm};

/// Where the hierarchy is that is asked first, in each layout of the matrix.
const ROOTS: [&str; 3] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

#[test]
#[ignore = "needs a VM: cargo xtask vm"]
fn a_zombie_is_of_the_cgroup_that_it_died_in() {
    require_vm();
    let layout = fs::read_to_string("/vm/boot").expect("what the init was told");
    let layout =
        layout.split('\0').find_map(|entry| entry.strip_prefix("cgroup=")).expect("a layout").to_owned();
    let mounted: Vec<&str> =
        ROOTS.into_iter().filter(|root| Path::new(root).join("cgroup.procs").exists()).collect();
    let expected: &[&str] = match layout.as_str() {
        "v2" => &ROOTS[2..],
        "v1" => &ROOTS[1..2],
        "both" => &ROOTS[..2],
        other => panic!("an unknown layout: {other}"),
    };
    assert_eq!(mounted, expected);

    let mut daemon = Daemon::start("1s");
    let mut holder = Holder::start();
    let mut wanted = Vec::new();
    // One where only one hierarchy says more than that it is the root, for each of them, and one where all do.
    let choices = (0..mounted.len()).map(|at| &mounted[at..=at]).chain([&mounted[..]]);
    for (number, roots) in choices.enumerate() {
        let name = format!("reaper-vm-{number}.service");
        for root in roots {
            let folder = Path::new(root).join(&name);
            fs::create_dir(&folder).expect("a cgroup");
            fs::write(folder.join("cgroup.procs"), holder.pid().to_string()).expect("it moves there");
        }
        let leak = holder.leak(7);
        let key = holder.key_of(leak);
        daemon.wait_until("the leak's report", |daemon| daemon.by_process("zombie").contains_key(&key));
        let event = daemon.by_process("zombie")[&key].clone();
        let workload = &event["workload"];
        assert_eq!(workload["cgroup"], format!("/{name}"), "{layout}, in {roots:?}: {event}");
        assert_eq!((&workload["kind"], &workload["unit"]), (&"unit".into(), &name.into()), "{event}");
        wanted.push(leak);
        for root in &mounted {
            fs::write(Path::new(root).join("cgroup.procs"), holder.pid().to_string()).expect("it moves back");
        }
    }
    for leak in wanted {
        holder.reap(leak);
    }
    daemon.stop();
}
