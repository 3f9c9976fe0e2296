use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{super::memory, *};
use crate::origin::symbols::child;

/// Without the symbolizing process, which is not this program.
fn recognizer() -> Recognizer {
    let read = |file: BorrowedFd<'_>| Ok(child::look_here(file.try_clone_to_owned().unwrap()));
    Recognizer::with(Proc::at("/proc"), Box::new(read))
}

/// An interpreter that has begun.
struct Python(Child);

impl Python {
    fn start() -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-I", "-c", "print('x', flush=True); input()"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("python3: `cargo xtask setup` installs it");
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    fn subject(&self) -> Subject {
        let pid = self.0.id();
        let (start, code) = Proc::at("/proc").code(pid).unwrap();
        let start = BootTime(start * 10_000_000);
        Subject { pid, start, code, executable: Executable { inode: 7, ..Executable::default() } }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn an_interpreters_first_thread_is_where_it_is_said_to_be() {
    let python = Python::start();
    let subject = python.subject();
    let mut recognizer = recognizer();
    assert!(!recognizer.knows(&subject.executable));
    let Found::Interpreter { head, distance, layout, .. } = recognizer.look(&subject).unwrap() else {
        panic!("not recognized")
    };
    assert_eq!(distance.map(|distance| subject.code.wrapping_add(distance)), Some(head));
    let word = |address: u64| u64::from_le_bytes(memory::array(subject.pid, address).unwrap());
    let thread = word(word(head) + u64::from(layout.interpreter_threads));
    assert_eq!(word(thread + u64::from(layout.thread_next)), 0, "it has one thread");
    // What pthread_self returns points to itself.
    let number = word(thread + u64::from(layout.thread_id));
    assert_eq!(word(number + 16), number);
}

#[test]
fn another_program_than_the_events_is_not_looked_at() {
    let python = Python::start();
    let mut recognizer = recognizer();
    let other = Subject { code: python.subject().code + 4096, ..python.subject() };
    assert_eq!(recognizer.look(&other).unwrap(), Found::Gone);
    let older = Subject { start: BootTime(1), ..python.subject() };
    assert_eq!(recognizer.look(&older).unwrap(), Found::Gone);
    assert!(!recognizer.knows(&older.executable), "nor remembered");
}

#[test]
fn a_file_that_does_harm_is_read_once_and_again_after_a_while() {
    let python = Python::start();
    let subject = python.subject();
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let reader = move |_: BorrowedFd<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        Err(Unanswered::Late)
    };
    let mut recognizer = Recognizer::with(Proc::at("/proc"), Box::new(reader));
    let late = |found: Result<Found, Unlooked>| match found {
        Err(Unlooked::PutOff { again, now }) => (again, now),
        found => panic!("{found:?}"),
    };
    let before = Instant::now();
    let (again, now) = late(recognizer.look(&subject));
    assert!(now && again >= before + PUT_OFF && again <= Instant::now() + PUT_OFF);
    // Each time that is said, and it costs no look.
    assert_eq!(late(recognizer.look(&subject)), (again, false));
    assert!(recognizer.knows(&subject.executable));
    // A copy has another inode; the kernel's number for it is not what counts.
    let other = Subject { executable: Executable { inode: 8, ..subject.executable }, ..subject };
    assert_eq!(late(recognizer.look(&other)), (again, false));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(!recognizer.executables.contains_key(&subject.executable), "it is no verdict");
}

/// The machine was slow: what it is is found out as soon as it is looked at again.
#[test]
fn a_file_that_was_late_is_looked_at_again() {
    let python = Python::start();
    let subject = python.subject();
    let asked = AtomicU32::new(0);
    let reader = move |file: BorrowedFd<'_>| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Unanswered::Late),
        _ => Ok(child::look_here(file.try_clone_to_owned().unwrap())),
    };
    let mut recognizer = Recognizer::with(Proc::at("/proc"), Box::new(reader));
    assert!(matches!(recognizer.look(&subject), Err(Unlooked::PutOff { now: true, .. })));
    // As if that time had passed.
    recognizer.put_off.clear();
    recognizer.suspects = Suspects::default();
    assert!(matches!(recognizer.look(&subject), Ok(Found::Interpreter { .. })));
}

#[test]
fn what_takes_too_long_to_open_is_put_off_and_what_is_refused_is_not() {
    for late in [Errno::TIMEDOUT, Errno::AGAIN] {
        let error = Unlooked::from(Unopened::Errno(late));
        assert!(matches!(error, Unlooked::PutOff { now: true, .. }), "{error:?}");
    }
    let refused = Unlooked::from(Unopened::Errno(Errno::ACCESS));
    assert!(matches!(refused, Unlooked::Unopened(_)), "{refused:?}");
}

#[test]
fn one_that_is_gone_is_gone() {
    let subject = Subject { pid: u32::MAX, ..Python::start().subject() };
    assert_eq!(recognizer().look(&subject).unwrap(), Found::Gone);
}

/// While the loader maps a library, what was read of it a moment ago is not there any more.
#[test]
fn a_process_whose_library_is_just_being_mapped_is_not_gone() {
    let python = Python::start();
    let subject = python.subject();
    let tree = tempfile::tempdir().unwrap();
    let process = tree.path().join(subject.pid.to_string());
    std::fs::create_dir(&process).unwrap();
    std::fs::copy(format!("/proc/{}/stat", subject.pid), process.join("stat")).unwrap();
    let line = "7f0000000000-7f0000800000 r--p 00000000 fe:00 1234 /usr/lib/libpython3.12.so.1.0\n";
    std::fs::write(process.join("maps"), line).unwrap();
    let nothing = |_: BorrowedFd<'_>| -> Result<_, _> { panic!("there is nothing to read") };
    let mut recognizer = Recognizer::with(Proc::at(tree.path()), Box::new(nothing));
    recognizer.executables.insert(subject.executable, Cpython::Linked);
    assert_eq!(recognizer.look(&subject).unwrap(), Found::Linked);
    std::fs::remove_file(process.join("stat")).unwrap();
    assert_eq!(recognizer.look(&subject).unwrap(), Found::Gone);
}

#[test]
fn one_that_is_dead_and_stands_is_gone() {
    let mut python = Python::start();
    let subject = python.subject();
    python.0.kill().unwrap();
    while Proc::at("/proc").see(subject.pid).unwrap().state != 'Z' {
        std::thread::yield_now();
    }
    let mut recognizer = recognizer();
    assert_eq!(recognizer.look(&subject).unwrap(), Found::Gone);
    recognizer.executables.insert(subject.executable, Cpython::Linked);
    assert_eq!(recognizer.look(&subject).unwrap(), Found::Gone);
}
