//! `reaper top` on a terminal: what it shows of zombies that are there, what it says when the daemon goes, and that it gives the
//! terminal back. What is on the terminal is what a terminal makes of its bytes.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Container, Daemon, Rootfs, Terminal, assert_refused, machine, pids_mount, reaper, run_briefly, signal,
};

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;

/// What does not come within this does not come.
const SHOWN: Duration = Duration::from_secs(20);

/// A dry run and the watch before the act, with two loads of the kernel side.
const REAPED: Duration = Duration::from_secs(60);

const WIDE: (u16, u16) = (30, 140);

/// Leaves seven children of its own.
const LEAK: &str = "import os, time
for _ in range(7):
    os.fork() or os._exit(0)
time.sleep(3600)";

/// Is left three orphans, as PID 1, that die after their parent was waited for; not before it is recognized, so that they have one leak site.
const ADOPT: &str = "import os, time
time.sleep(1)
if (child := os.fork()) == 0:
    for _ in range(3):
        if os.fork() == 0:
            while os.getppid() != 1:
                time.sleep(0.01)
            os._exit(0)
    os._exit(0)
os.waitpid(child, 0)
while True:
    time.sleep(3600)";

fn container(name: &str, program: &str) -> Container {
    Container::start(name, Rootfs::HostPrograms, |_| (), &["/usr/bin/python3", "-I", "-S", "-c", program])
}

/// A process's children, of each of its threads, as /proc says.
fn pids_of_children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end meanwhile.
    let of_each =
        threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).ok());
    let pids = |children: String| -> Vec<u32> {
        children.split_whitespace().map(|child| child.parse().unwrap()).collect()
    };
    of_each.flat_map(pids).collect()
}

/// Their states.
fn children(pid: u32) -> Vec<char> {
    let state = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    };
    pids_of_children(pid).into_iter().filter_map(state).collect()
}

/// Waits until so many of a process's children were reported.
fn await_reports(daemon: &mut Daemon, pid: u32, count: usize) {
    let mut reported = 0;
    daemon.until("its zombies are reported", SHOWN, |seen| {
        reported += usize::from(seen.is("zombie") && seen.number("/holder/pid") == u64::from(pid));
        reported == count
    });
    assert_eq!(children(pid), vec!['Z'; count]);
}

/// Goes down from the top until this workload is selected.
fn select(top: &mut Terminal, name: &str) {
    let selected = |lines: &[String]| lines.iter().find(|line| line.starts_with("> ")).cloned();
    let is_it = |line: &str| line.starts_with(&format!("> {name}"));
    top.line_with(&[name], SHOWN);
    top.types("\x1b[H");
    while let Some(now) = selected(&top.lines()).filter(|now| !is_it(now)) {
        top.types("j");
        // Its figures may change, too: what counts is where the mark is in the end.
        top.until(&format!("{name} or another line is selected"), SHOWN, |lines| {
            selected(lines) != Some(now.clone())
        });
    }
}

#[test]
fn a_leak_is_counted_and_opened_and_the_terminal_is_given_back() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "1s"]);
    let container = container("top", LEAK);
    await_reports(&mut daemon, container.init(), 7);
    let mut top = Terminal::start(&["top"], WIDE, |_| ());
    let holder = format!("python3({})", container.init());
    // Holder and cause are known when they have been reported.
    let row = top.line_with(&[&container.id, &holder, "never-waited"], SHOWN);
    let zombies = row
        .split_whitespace()
        .skip_while(|word| !container.id.starts_with(word.trim_end_matches('…')))
        .nth(1);
    assert_eq!(zombies, Some("7"), "{row}");
    assert!(top.is_covered());
    assert!(top.lines()[0].starts_with("reaper top: "), "{:?}", top.lines());

    top.resize(24, 80);
    top.until("the footer is in the last of 24 lines", SHOWN, |lines| {
        lines.len() == 24 && lines[23].starts_with("q quit") && lines[0].starts_with("reaper top")
    });
    select(&mut top, &container.id[..8]);
    top.types("\r");
    // An interpreter that has just started may not be recognized at its first forks: then there are two leak sites.
    top.until("the groups have 7 zombies together", SHOWN, |lines| {
        let of_holder =
            lines.iter().filter(|line| line.contains(&holder) && line.contains(" never-waited  "));
        let counts = of_holder.filter_map(|line| line.trim_start_matches(['>', ' ']).split(' ').next());
        counts.filter_map(|count| count.parse::<u64>().ok()).sum::<u64>() == 7
    });
    top.line_with(&["7 zombies, 7 of them reported"], SHOWN);
    // What could be done is said, and not done.
    top.types("x");
    top.line_with(&["reaper reap ", " --cause never-waited"], SHOWN);
    // All of it is drawn anew, whatever was written over it.
    top.types("\x0c");
    top.types("y");
    top.types("\x1b");
    // Or Esc and what follows at once would be one key.
    top.until("the command has gone", SHOWN, |lines| !lines.iter().any(|line| line.contains("reaper reap ")));
    top.line_with(&["x reap (off)"], SHOWN);
    top.types("\r");
    top.line_with(&[" zombies of ", &holder, "never-waited: "], SHOWN);
    assert_eq!(children(container.init()), ['Z'; 7]);
    assert_eq!(children(top.pid()), [], "nothing was started");
    top.types("?");
    top.line_with(&["PgUp"], SHOWN);
    top.types("q");
    top.until("help is closed", SHOWN, |lines| !lines.iter().any(|line| line.contains("PgUp")));
    top.types("q");
    assert_eq!(top.end(), (Some(0), String::new()));
    drop(container);
    daemon.end();
}

#[test]
fn a_signal_and_ctrl_c_give_the_terminal_back_and_without_colour_there_is_none() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "1s"]);
    let container = container("plain", LEAK);
    await_reports(&mut daemon, container.init(), 7);
    // A full limit is what is shown in colour.
    fs::write(pids_mount().join(&container.id).join("pids.max"), "8").unwrap();
    let full = [&container.id[..8], " 7 ", " 0%"];
    let mut top = Terminal::start(&["top"], (10, 40), |_| ());
    top.line_with(&full, SHOWN);
    assert!(top.was_coloured());
    top.types("\x03");
    assert_eq!(top.end(), (Some(0), String::new()));
    let mut top = Terminal::start(&["top"], (10, 40), |_| ());
    top.line_with(&full, SHOWN);
    top.types("\x1c");
    assert_eq!(top.end(), (Some(0), String::new()), "Ctrl-\\");
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let top = Terminal::start(&["top"], (24, 80), |command| {
            command.env("NO_COLOR", "1");
        });
        top.line_with(&full, SHOWN);
        assert!(top.is_covered() && !top.was_coloured());
        signal(top.pid(), number);
        assert_eq!(top.end(), (Some(0), String::new()), "signal {number}");
    }
    drop(container);
    daemon.end();
}

#[test]
fn a_terminal_that_is_gone_ends_it() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1s"]);
    let top = Terminal::start(&["top"], (24, 80), |_| ());
    top.line_with(&["reaper top: "], SHOWN);
    // By SIGHUP, or because nothing can be written any more, whichever is first.
    assert!(matches!(top.hang_up(), Some(0 | UNAVAILABLE)));
    daemon.end();
}

#[test]
fn a_daemon_that_dies_is_said_to_be_gone_and_the_next_one_is_asked() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1s"]);
    let container = container("dies", LEAK);
    let mut top = Terminal::start(&["top", "--interval", "1s"], WIDE, |_| ());
    top.line_with(&[&container.id, " 7 "], SHOWN);
    assert_eq!(daemon.end_with(libc::SIGKILL).code, None);
    top.line_with(&["no daemon listens at ", "asked again every 1s"], SHOWN);
    top.until("what is shown is said to be old", SHOWN, |lines| lines[0].ends_with("s old"));
    assert!(top.lines().iter().any(|line| line.contains(&container.id)), "{:?}", top.lines());

    let daemon = Daemon::run(&["--age", "1s"]);
    top.until("nothing is amiss any more", SHOWN, |lines| {
        (lines[0].ends_with(" now") || lines[0].ends_with(" 1s old"))
            && !lines.iter().any(|line| line.contains("no daemon"))
    });
    top.line_with(&[&container.id, " 7 "], SHOWN);
    top.types("q");
    assert_eq!(top.end().0, Some(0));
    drop(container);
    daemon.end();
}

#[test]
fn where_it_is_allowed_zombies_are_reaped_after_a_look_and_a_yes() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "1s"]);
    let container = container("orphans", ADOPT);
    await_reports(&mut daemon, container.init(), 3);
    let mut top = Terminal::start(&["top", "--allow-remedies"], WIDE, |_| ());
    top.line_with(&[&container.id, "adopted"], SHOWN);
    select(&mut top, &container.id);
    top.types("\r");
    top.line_with(&[">       3 ", "adopted"], SHOWN);
    top.types("x");
    top.line_with(&["planned"], REAPED);
    top.line_with(&["Do it? y: yes, Esc: no"], SHOWN);
    assert_eq!(children(container.init()), ['Z'; 3], "it was only looked at");
    // Who says yes at once has not read it; and it is done once, however often that is said.
    let is_begun = |lines: &[String]| !lines.iter().any(|line| line.contains("Do it?"));
    let begins = |_| {
        top.types("y");
        top.comes(Duration::from_millis(100), is_begun)
    };
    assert!((0..100).any(begins), "{:?}", top.lines());
    top.line_with(&["applied", "3 of 3 gone"], REAPED);
    assert_eq!(children(container.init()), []);
    top.types("\x1b");
    top.line_with(&["none of its zombies stands"], SHOWN);
    top.types("q");
    assert_eq!(top.end(), (Some(0), String::new()));
    drop(container);
    daemon.end();
}

#[test]
fn what_has_been_begun_goes_on_without_the_view() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "1s"]);
    let container = container("left", ADOPT);
    await_reports(&mut daemon, container.init(), 3);
    let asked = || {
        let mut top = Terminal::start(&["top", "--allow-remedies"], (24, 80), |_| ());
        select(&mut top, &container.id[..8]);
        top.types("\r");
        top.line_with(&[">       3 ", "adopted"], SHOWN);
        top.types("x");
        top.line_with(&["Do it? y: yes, Esc: no"], REAPED);
        // A yes counts once that could be read.
        thread::sleep(Duration::from_secs(1));
        top
    };
    // Left in the same breath: what has been begun by then goes on, or nothing has been.
    let goes_on = (0..5).any(|_| {
        let mut top = asked();
        top.types("y\x03");
        let (code, said) = top.end();
        assert_eq!(code, Some(0), "{said}");
        // On a busy machine it may be over by then.
        said.replace('\n', "").contains(" goes on, and what comes of it is not shown")
            || children(container.init()).is_empty()
    });
    assert!(goes_on, "nothing was begun");
    let deadline = Instant::now() + REAPED;
    while !children(container.init()).is_empty() {
        assert!(Instant::now() < deadline, "{:?} are left", children(container.init()));
        thread::sleep(Duration::from_millis(50));
    }
    drop(container);
    daemon.end();
}

#[test]
fn a_workload_is_found_by_its_name_and_a_zombie_is_read_in_full() {
    let _machine = machine();
    let mut daemon = Daemon::run(&["--age", "1s"]);
    let container = container("found", LEAK);
    await_reports(&mut daemon, container.init(), 7);
    let mut top = Terminal::start(&["top"], (24, 80), |_| ());
    let name = &container.id[..8];
    top.line_with(&[name, " 7 "], SHOWN);
    top.types("/no such workload");
    top.line_with(&["reaper top: /no such workload_ 0 of "], SHOWN);
    top.line_with(&["no workload has \"no such workload\" in its name"], SHOWN);
    top.types("\x1b");
    top.line_with(&[name, " 7 "], SHOWN);
    top.types("/");
    top.types(&container.id.to_uppercase());
    top.line_with(&["reaper top: /", "_ 1 of "], SHOWN);
    top.types("\r");
    top.until("it is kept and listed alone", SHOWN, |lines| {
        lines[0].contains(" 1 of ")
            && lines[2].starts_with(&format!("> {name}"))
            && lines[3].trim().is_empty()
    });
    top.types("\r");
    top.until("its zombies are listed", SHOWN, |lines| {
        lines.iter().any(|line| line.starts_with("> ") && line.contains(" python3("))
    });
    top.types("\r");
    top.line_with(&[" zombies of ", "never-waited: "], SHOWN);
    top.types("\r");
    top.line_with(&["Command    "], SHOWN);
    // The program is in it, which is longer than a line.
    top.until("the end of the holder's command line is to be read, and the whole stack", SHOWN, |lines| {
        let text: String = lines.iter().flat_map(|line| line.split_whitespace()).collect();
        text.contains("time.sleep(3600)")
            && lines.iter().any(|line| line.starts_with("  > <module> <string>:3"))
    });
    // Where there is less room it is scrolled. However often that is down, once up is seen.
    top.resize(12, 80);
    top.until("there is more below", SHOWN, |lines| lines.len() == 12 && lines[11].contains(" lines below"));
    top.types(&"j".repeat(200));
    top.until("there is nothing below", SHOWN, |lines| {
        lines.iter().any(|line| line.starts_with("More ")) && !lines[11].contains("below")
    });
    top.types("k");
    top.line_with(&["1 line below"], SHOWN);
    top.types("g");
    top.line_with(&["zombie ", "(python3)"], SHOWN);
    drop(container);
    top.line_with(&["It is gone; this is what was known of it."], SHOWN);
    top.types("q");
    top.types("q");
    assert_eq!(top.end(), (Some(0), String::new()));
    daemon.end();
}

#[test]
fn a_shell_stops_it_and_has_it_go_on() {
    let _machine = machine();
    let daemon = Daemon::run(&["--age", "1s"]);
    let script = "\"$0\" top; echo given back; read -r _; fg; echo stopped; read -r _; fg; echo ended $?";
    let mut top = Terminal::shell(script, (24, 80));
    let is_shown = |lines: &[String]| lines.len() == 24 && lines[0].starts_with("reaper top: ");
    top.until("it is shown", SHOWN, is_shown);
    assert!(top.is_covered() && !top.is_as_it_was());
    top.types("\x1a");
    top.line_with(&["given back"], SHOWN);
    assert!(!top.is_covered() && top.is_as_it_was());
    top.types("\n");
    top.until("it is shown again", SHOWN, is_shown);
    assert!(top.is_covered() && !top.is_as_it_was());
    // Of this nobody is told before.
    let [pid] = pids_of_children(top.pid())[..] else { panic!("{:?}", pids_of_children(top.pid())) };
    signal(pid, libc::SIGSTOP);
    top.line_with(&["stopped"], SHOWN);
    top.types("\n");
    top.until("all of it is drawn again", SHOWN, |lines| {
        is_shown(lines) && !lines.iter().any(|line| line.trim_end() == "stopped")
    });
    assert!(top.is_covered() && !top.is_as_it_was());
    top.types("q");
    let (code, said) = top.end();
    assert!(code == Some(0) && said.ends_with("ended 0"), "{code:?}: {said}");
    // Where nobody could have it go on it does not stop.
    let mut top = Terminal::start(&["top"], (24, 80), |_| ());
    top.until("it is shown", SHOWN, is_shown);
    top.types("\x1a");
    top.types("?");
    top.line_with(&["PgUp"], SHOWN);
    top.types("qq");
    assert_eq!(top.end(), (Some(0), String::new()));
    daemon.end();
}

#[test]
fn without_a_daemon_or_a_terminal_it_says_what_to_do_and_touches_nothing() {
    let _machine = machine();
    let refused = |terminal: Terminal, parts: &[&str]| {
        let (code, text) = terminal.end();
        // It wraps where it likes.
        let text = text.replace('\n', "");
        assert_eq!(code, Some(UNAVAILABLE), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    refused(Terminal::start(&["top"], (24, 200), |_| ()), &["no daemon listens at ", "start `reaper run`"]);
    let daemon = Daemon::run(&["--age", "1s"]);
    for name in ["dumb", ""] {
        let on = Terminal::start(&["top"], (24, 200), |command| {
            command.env("TERM", name);
        });
        refused(on, &["TERM names no terminal", "reaper headroom"]);
    }
    let no_terminal = run_briefly(Command::new(reaper()).arg("top"));
    assert_refused(&no_terminal, UNAVAILABLE, &["a live view takes a terminal", "reaper headroom"]);
    let json = run_briefly(Command::new(reaper()).args(["top", "--output", "json"]));
    assert_refused(&json, USAGE, &["reaper headroom --output json"]);
    daemon.end();
}
