//! What the kernel side keeps of a holder's wait calls, as bpftool shows it, and for how long.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    remedy::Holder,
    support::{Daemon, machine, program, run_briefly},
};

#[test]
fn the_numbers_that_a_holder_has_waited_for_go_when_its_probation_ends() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "400ms"]);
    let map = map_of(daemon.pid(), "AWAITED");
    // It runs children of its own all the time, each waited for by its pid.
    let mut holder = Holder::start("works", 2);
    let mut most = 0;
    // What is kept is that of the last moment of this.
    let deadline = Instant::now() + Duration::from_secs(20);
    while most < 3 {
        assert!(Instant::now() < deadline, "its waits are not kept: {most}");
        most = most.max(awaited(map, holder.pid()).len());
        thread::sleep(Duration::from_millis(20));
    }
    // Nothing has come of it that anybody could do: its probation ends, though it goes on as before.
    while !awaited(map, holder.pid()).is_empty() {
        assert!(Instant::now() < deadline, "they are kept for ever: {:?}", awaited(map, holder.pid()));
        thread::sleep(Duration::from_millis(20));
    }
    assert!(holder.lives() && holder.standing() == 2);
    daemon.end();
}

/// The kernel's number of the map of this name that a process has open.
fn map_of(pid: u32, name: &str) -> u64 {
    let is_it = |id: &u64| {
        let shown = bpftool(&["map", "show", "id", &id.to_string()]);
        shown["name"] == name
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let ids: BTreeSet<u64> = descriptors
        .filter_map(|descriptor| {
            let text = fs::read_to_string(descriptor.unwrap().path()).ok()?;
            text.lines().find_map(|line| line.strip_prefix("map_id:"))?.trim().parse().ok()
        })
        .collect();
    ids.iter().copied().find(is_it).unwrap_or_else(|| panic!("no {name} among {ids:?}"))
}

/// The numbers that are kept of a holder. A key is both, as the ABI of the kernel side packs them: the holder above.
fn awaited(map: u64, holder: u32) -> BTreeSet<u32> {
    let entries = bpftool(&["map", "dump", "id", &map.to_string()]);
    let bytes = |entry: &Value| -> Vec<u8> {
        let hex =
            |byte: &Value| u8::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        entry["key"].as_array().unwrap_or_else(|| panic!("{entry}")).iter().map(hex).collect()
    };
    let keys = entries.as_array().unwrap().iter().map(bytes);
    keys.map(|key| u64::from_ne_bytes(key.try_into().unwrap()))
        .filter(|key| key >> 32 == u64::from(holder))
        .map(|key| u32::try_from(key & 0xffff_ffff).unwrap())
        .collect()
}

fn bpftool(words: &[&str]) -> Value {
    let output = run_briefly(Command::new(program("bpftool")).arg("-j").args(words));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
