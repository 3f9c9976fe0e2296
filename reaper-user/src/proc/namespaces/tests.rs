use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use rustix::process::getuid;

use super::*;

const PROC: &str = "/proc";

/// A shell in namespaces that these words make, which waits; killed when this is dropped.
struct Within(Child, u32);

impl Within {
    fn start(words: &str) -> Self {
        let words = format!("{words} sh -c");
        let mut command = Command::new("unshare");
        command.args(words.split_whitespace()).arg("echo; read line");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let pid = child.id();
        let children = fs::read_to_string(format!("{PROC}/{pid}/task/{pid}/children")).unwrap();
        let inner = children.split_whitespace().next().map_or(pid, |inner| inner.parse().unwrap());
        Self(child, inner)
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        // Who waits for a line has it, or has ended.
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn inode(pid: u32, kind: &str) -> u64 {
    let link = fs::read_link(format!("{PROC}/{pid}/ns/{kind}")).unwrap();
    let link = link.to_str().unwrap();
    link.strip_prefix(&format!("{kind}:[")).unwrap().strip_suffix(']').unwrap().parse().unwrap()
}

#[test]
fn a_process_within_several_user_namespaces_counts_as_the_one_who_made_the_outermost() {
    let own = std::process::id();
    assert_eq!(user_namespace(Path::new(PROC), own).unwrap(), inode(own, "user"));
    for words in ["--user --map-root-user", "--user --map-root-user unshare --user --map-root-user"] {
        let within = Within::start(words);
        assert_ne!(user_namespace(Path::new(PROC), within.1).unwrap(), inode(own, "user"));
        assert_eq!(outermost_owner(Path::new(PROC), within.1).unwrap(), getuid().as_raw(), "{words}");
    }
}

#[test]
fn a_process_has_a_number_in_each_pid_namespace_around_it() {
    let own = std::process::id();
    let around = pid_namespaces(Path::new(PROC), own).unwrap();
    assert_eq!(around[0], inode(own, "pid"));
    let within = Within::start("--user --map-root-user --pid --fork");
    let all = pid_namespaces(Path::new(PROC), within.1).unwrap();
    assert_eq!((all[0], &all[1..]), (inode(within.1, "pid"), &around[..]));
}
