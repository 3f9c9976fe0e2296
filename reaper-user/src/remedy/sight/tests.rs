use std::os::unix::fs::symlink;

use super::*;
use crate::identity::BootTime;

/// A /proc with this process chain: 1 ← 50 ← 60 (first of a namespace) ← 70, and 80, a child of 1.
struct Fake {
    root: tempfile::TempDir,
    proc: Proc,
}

const START: u64 = 12_345;

impl Fake {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let fake = Self { proc: Proc::at(root.path()), root };
        for (pid, parent) in [(1, 0), (50, 1), (60, 50), (70, 60), (80, 1)] {
            fake.process(pid, parent, 0);
        }
        fake.write(60, "cgroup", b"0::/docker/abc\n");
        fake
    }

    fn write(&self, pid: u32, file: &str, content: &[u8]) {
        let path = self.root.path().join(pid.to_string()).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn process(&self, pid: u32, parent: u32, caught: u64) {
        let stat = format!(
            "{pid} (x) S {parent} 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 {START} 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 \
             0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        self.write(pid, "stat", stat.as_bytes());
        let status = format!(
            "Name:\tx\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{parent}\nTracerPid:\t0\n\
             Uid:\t1000\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t\nNStgid:\t{pid}\nNSpid:\t{pid}\nNSpgid:\t1\nNSsid:\t1\n\
             Threads:\t1\nSigQ:\t0/96\nSigPnd:\t0\nShdPnd:\t0\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t{caught:016x}\nCapInh:\t0\nCapPrm:\t0\n\
             CapEff:\t0\nCapBnd:\t0\nCapAmb:\t0\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t7\n"
        );
        self.write(pid, "status", status.as_bytes());
        self.write(pid, "environ", b"A=1\0");
        self.write(pid, "cgroup", b"0::/system.slice/a.service\n");
    }

    fn look(&self, pid: u32) -> Option<Sight> {
        // A hundredth of a second is a tick.
        let inits = [
            Identity { pid: 60, start: BootTime(START * 10_000_000) },
            // Not this process, an earlier one.
            Identity { pid: 80, start: BootTime(1) },
        ];
        look(&self.proc, pid, &mut Ancestry::of(&self.proc, &inits))
    }
}

#[test]
fn who_is_above_the_first_process_of_a_namespace_is_seen_to_be() {
    let fake = Fake::new();
    for (pid, above) in [(1, true), (50, true), (60, false), (70, false), (80, false)] {
        let below = fake.look(pid).unwrap().below;
        assert_eq!(below, if above { vec![b"0::/docker/abc\n".to_vec()] } else { vec![] }, "{pid}");
    }
}

#[test]
fn a_chain_of_parents_that_goes_round_ends() {
    let fake = Fake::new();
    fake.process(50, 60, 0);
    assert!(fake.look(50).is_some());
}

#[test]
fn this_process_and_who_is_above_it_are_known() {
    let fake = Fake::new();
    fake.process(std::process::id(), 50, 0);
    for (pid, ourselves) in [(std::process::id(), true), (50, true), (1, true), (60, false), (80, false)] {
        assert_eq!(fake.look(pid).unwrap().ourselves, ourselves, "{pid}");
    }
}

#[test]
fn a_workload_opts_out_by_its_environment_only_in_these_words() {
    let fake = Fake::new();
    let long = [vec![b'x'; 1 << 20], b"\0REAPER_REMEDIES=off\0".to_vec()].concat();
    for (environment, expected) in [
        (&b"PATH=/bin\0REAPER_REMEDIES=off\0"[..], OptOut::Yes),
        (b"REAPER_REMEDIES=off", OptOut::Yes),
        (b"REAPER_REMEDIES=on\0", OptOut::No),
        (b"XREAPER_REMEDIES=off\0", OptOut::No),
        (b"A=REAPER_REMEDIES=off\0", OptOut::No),
        (b"A=\xff\x1b[2J\0", OptOut::No),
        (b"", OptOut::No),
        (&long, OptOut::Unknown),
    ] {
        fake.write(70, "environ", environment);
        assert_eq!(fake.look(70).unwrap().opt_out, expected, "{:?}", environment.get(..30));
    }
    fs::remove_file(fake.root.path().join("70/environ")).unwrap();
    assert_eq!(fake.look(70).unwrap().opt_out, OptOut::Unknown);
}

#[test]
fn a_handler_a_signalfd_and_a_sigwait_are_evidence_that_it_is_heeded() {
    let fake = Fake::new();
    assert_eq!(fake.look(70).unwrap().heeds, Heeds::No);
    fake.write(70, "task/71/syscall", format!("{} 0x1 0x2\n", libc::SYS_rt_sigtimedwait).as_bytes());
    assert_eq!(fake.look(70).unwrap().heeds, Heeds::Sigwait);
    fs::create_dir(fake.root.path().join("70/fd")).unwrap();
    symlink("anon_inode:[signalfd]", fake.root.path().join("70/fd/5")).unwrap();
    fake.write(70, "fdinfo/5", b"pos:\t0\nsigmask:\t0000000000010000\n");
    assert_eq!(fake.look(70).unwrap().heeds, Heeds::Signalfd);
    fake.write(70, "fdinfo/5", b"pos:\t0\nsigmask:\t0000000000004000\n");
    assert_eq!(fake.look(70).unwrap().heeds, Heeds::Sigwait, "that one is for SIGTERM");
    fake.process(70, 60, 1 << 16);
    assert_eq!(fake.look(70).unwrap().heeds, Heeds::Handler);
}

#[test]
fn an_executable_is_known_by_what_runs() {
    let fake = Fake::new();
    assert_eq!(fake.look(70).unwrap().executable, None);
    let program = fake.root.path().join("program (deleted)");
    fs::write(&program, "").unwrap();
    symlink(&program, fake.root.path().join("70/exe")).unwrap();
    let executable = fake.look(70).unwrap().executable.unwrap();
    assert_eq!(executable.file.1, fs::metadata(&program).unwrap().ino());
    assert!(executable.path.as_str().ends_with("/program"), "{executable:?}");
    assert!(!executable.in_init_user_ns);
}

#[test]
fn a_process_that_is_gone_is_not_seen() {
    assert_eq!(Fake::new().look(99), None);
}
