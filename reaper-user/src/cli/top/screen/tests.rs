//! The terminal is given back by whoever panics: seen from the other end of a pseudo-terminal, on which this program runs itself.

use std::{
    env,
    fs::File,
    io::Read as _,
    os::fd::OwnedFd,
    process::{Command, ExitStatus, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    process::{Pid, PidfdFlags, pidfd_open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};

use ratatui::crossterm::terminal::is_raw_mode_enabled;

use super::*;
use crate::{
    cli::top::{fixture, show, state::Settings},
    exit_code,
};

/// Says to this program, run by a test, who is to panic.
const WHO: &str = "REAPER_TEST_PANICS";

/// What is said by who panics.
const WORDS: &str = "on purpose";

const PLAIN: Look = Look { colour: false };

/// Runs the test `alone` on a terminal of its own, and returns what was written to it and how it has ended. Its settings have to be what
/// they were.
fn on_a_terminal(who: &str) -> (String, ExitStatus) {
    let looks = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&looks).unwrap();
    unlockpt(&looks).unwrap();
    let own = open(
        ptsname(&looks, Vec::new()).unwrap().as_c_str(),
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let own: OwnedFd = own.unwrap();
    tcsetwinsize(&own, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let settings = || format!("{:?}", tcgetattr(&own).unwrap());
    let before = settings();
    let stdio = || Stdio::from(own.try_clone().unwrap());
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "cli::top::screen::tests::alone", "--ignored", "--nocapture"]).env(WHO, who);
    let mut child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    drop(command);
    let mut looking = File::from(looks);
    let reader = thread::spawn(move || {
        let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
        // When nobody has the other end any more, that is EIO.
        while let Ok(count @ 1..) = looking.read(&mut bytes) {
            all.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    let ends = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&ends, PollFlags::IN)], Some(&patience)).unwrap() == 0 {
        child.kill().unwrap();
        panic!("{who}: it does not end");
    }
    let ended = child.wait().unwrap();
    assert_eq!(settings(), before, "the terminal is not as it was");
    drop(own);
    (reader.join().unwrap(), ended)
}

/// Not for itself: what is run on a terminal by the tests below.
#[test]
#[ignore = "the other tests run it, on a terminal"]
fn alone() {
    let who = env::var(WHO).expect("the other tests run this");
    let state = fixture::state(false, vec![fixture::workload(1, 7)]);
    if who == "thread beside the view" {
        let waits = || {
            while !TAKEN.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            panic!("{WORDS}");
        };
        let panics = thread::spawn(waits);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = Settings { interval: std::time::Duration::from_secs(3_600), allow_remedies: false };
        let left = runtime.block_on(show(settings, fixture::answer(state.rows, None), PLAIN));
        panics.join().unwrap_err();
        let failure = left.unwrap_err();
        assert_eq!(failure.code, exit_code::UNAVAILABLE);
        println!("{}", failure.message);
        // The threads that read and ask are left behind.
        return;
    }
    let mut screen = Screen::take().unwrap();
    assert!(is_raw_mode_enabled().unwrap());
    assert!(screen.draw(&state, PLAIN).unwrap().is_some());
    if who == "thread" {
        thread::spawn(|| panic!("{WORDS}")).join().unwrap_err();
        assert!(!is_raw_mode_enabled().unwrap());
        assert_eq!(screen.draw(&state, PLAIN).unwrap(), None, "it is not ours any more");
        screen.retake().unwrap();
        assert!(screen.draw(&state, PLAIN).unwrap().is_some());
        return;
    }
    panic!("{WORDS}");
}

const COVERED: &str = "\x1b[?1049h";
const UNCOVERED: &str = "\x1b[?1049l";
const HIDDEN: &str = "\x1b[?25l";
const SHOWN: &str = "\x1b[?25h";

#[test]
fn whoever_panics_gives_the_terminal_back_before_saying_so() {
    for who in ["main", "thread", "thread beside the view"] {
        let (text, ended) = on_a_terminal(who);
        assert_eq!(ended.success(), who != "main", "{who}: {text:?}");
        let (before, after) = text.split_once(WORDS).unwrap_or_else(|| panic!("{who}: {text:?}"));
        let last = |text: &str, what: &str| text.rfind(what);
        assert!(last(before, COVERED).is_some(), "{who}: {text:?}");
        assert!(last(before, UNCOVERED) > last(before, COVERED), "{who}: {text:?}");
        assert!(last(&text, UNCOVERED) > last(&text, COVERED), "{who}: {text:?}");
        assert!(last(&text, SHOWN) > last(&text, HIDDEN), "{who}: {text:?}");
        match who {
            // It was taken again.
            "thread" => assert!(after.contains(COVERED) && after.contains("reaper top: "), "{after:?}"),
            "main" => assert!(!after.contains("reaper top: "), "{after:?}"),
            _ => assert!(
                !after.contains("reaper top: ") && after.contains("by a fault of its own, told above"),
                "{after:?}"
            ),
        }
    }
}
