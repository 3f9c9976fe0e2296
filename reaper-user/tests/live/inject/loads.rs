//! Real programs in the states that they have by nature: under a steady load whose results they check, the orphans that were given to
//! them are reaped again and again. Each of their own children is waited for by its parent, which must get its status.
//!
//! The programs are in `programs/`. Each iteration runs a child and checks its exit code, leaves an orphan behind (`sleep`), and says
//! `tick`; whatever is wrong it says as `fault`.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{
    each,
    hand::{Hand, Wish, came},
    holder::PATIENCE,
    running::{Load, Running},
};
use crate::support::{Random, built_example, fixture, machine, program, rounds, run_briefly, signal};

const AT_ONCE: usize = 4;

/// Beyond its own patience.
const OVERRUNS: Duration = Duration::from_secs(5);

/// Within which what is wrong must show.
const SOON: Duration = Duration::from_secs(3);

/// After a death the frame is done with, and another may be laid.
const COOLS: Duration = Duration::from_millis(100);

/// Iterations that must follow the last reap.
const GOES_ON: usize = 5;

fn own(name: &str) -> PathBuf {
    fixture("inject/programs").join(name)
}

fn run(name: &'static str, program: impl AsRef<Path>, arguments: &[&str], file: &str) -> Load {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    if !file.is_empty() {
        command.arg(own(file));
    }
    Load { name, command, port: None }
}

/// A program that is compiled first, to this path.
fn built(name: &'static str, compile: impl FnOnce(&Path) -> Command) -> Load {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("load-{name}"));
    let output = compile(&target).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    run(name, target, &[], "")
}

fn python(name: &'static str, mode: &str) -> Load {
    let mut load = run(name, "/usr/bin/python3", &["-I", "-S"], "load.py");
    load.command.arg(mode);
    load
}

fn gunicorn() -> Load {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-m", "gunicorn", "--workers", "1", "--log-level", "warning", "--bind"]);
    command.arg(format!("127.0.0.1:{port}")).arg("worker:application").current_dir(own(""));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Load { name: "gunicorn", command, port: Some(port) }
}

fn go() -> Load {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache");
    built("go", |target| {
        let mut go = Command::new(program("go"));
        go.args(["build", "-o"]).arg(target).arg(own("load.go"));
        go.env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOCACHE", cache);
        go
    })
}

fn java() -> Load {
    let classes = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load-java");
    let mut javac = Command::new(program("javac"));
    let output = javac.arg("-d").arg(&classes).arg(own("Load.java")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    run("java", program("java"), &["-cp", classes.to_str().unwrap(), "Load"], "")
}

fn mono() -> Load {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load-mono.exe");
    let mut mcs = Command::new(program("mcs"));
    let output = mcs.arg(format!("-out:{}", target.display())).arg(own("load.cs")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    run("mono", program("mono"), &[target.to_str().unwrap()], "")
}

fn loads() -> Vec<Load> {
    vec![
        built("rust", |target| {
            let mut rustc = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
            rustc.args(["--edition", "2024", "-O", "-o"]).arg(target).arg(own("load.rs"));
            rustc
        }),
        go(),
        python("python subprocess", "subprocess"),
        python("python asyncio", "asyncio"),
        python("python multiprocessing", "multiprocessing"),
        gunicorn(),
        node(),
        java(),
        run("ruby", program("ruby"), &[], "load.rb"),
        run("perl", program("perl"), &[], "load.pl"),
        built("musl static", |target| {
            let mut gcc = Command::new(program("musl-gcc"));
            gcc.args(["-static", "-O2", "-Wall", "-Werror", "-o"]).arg(target).arg(own("load.c"));
            gcc
        }),
        mono(),
    ]
}

/// One cell: what it came to, as a line, and all that was wrong.
fn cell(load: Load, wanted: usize) -> (String, Vec<String>) {
    let mut running = Running::start(load);
    let mut hand = Hand::default();
    let (mut orders, mut done, mut reaped) = (0, 0, 0);
    let mut refused = BTreeMap::<String, usize>::new();
    while done < wanted && orders < wanted * 5 && running.faults.is_empty() {
        running.go_on(1);
        let zombies = running.orphans();
        if zombies.is_empty() {
            continue;
        }
        orders += 1;
        let wish = Wish { patience: Duration::from_millis(300), ..Wish::new() };
        let came = match hand.start_on(running.holder, &zombies, wish) {
            Ok(tracer) => came(tracer.finish(wish.patience + OVERRUNS)),
            Err(came) => came,
        };
        let standing = running.orphans();
        let still =
            zombies.iter().filter(|zombie| standing.iter().any(|other| other.pid == zombie.pid)).count();
        if still + came.reaped != zombies.len() {
            running.faults.push(format!("{still} of {} stand, though {came:?}", zombies.len()));
        }
        done += usize::from(came.reaped > 0);
        reaped += came.reaped;
        if let Some(word) = came.refusal {
            *refused.entry(word).or_default() += 1;
        }
        running.read();
    }
    running.go_on(GOES_ON);
    if done < wanted {
        running.faults.push(format!(
            "{done} of {orders} orders were carried out: a cure that refuses everybody is none"
        ));
    }
    let line = format!(
        "{:<24} {orders:>4} orders {done:>4} done {reaped:>5} orphans {:>5} iterations refused {refused:?}",
        running.name, running.ticks
    );
    (line, running.faults.iter().map(|fault| format!("{}: {fault}", running.name)).collect())
}

fn run_all(loads: Vec<Load>, wanted: usize) {
    let results = each(AT_ONCE, loads, |load| cell(load, wanted));
    results.iter().for_each(|(line, _)| println!("{line}"));
    let faults: Vec<_> = results.into_iter().flat_map(|(_, faults)| faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn node() -> Load {
    run("node", program("node"), &[], "load.js")
}

#[test]
fn programs_under_load_get_all_of_their_own_statuses_while_their_orphans_are_reaped() {
    let _machine = machine();
    run_all(loads(), rounds(10, 200));
}

#[test]
fn one_go_and_one_node_process_are_made_to_wait_again_and_again() {
    let _machine = machine();
    run_all(vec![go(), node()], rounds(50, 1_000));
}

#[test]
fn programs_whose_tracer_is_killed_at_any_moment_go_on() {
    let _machine = machine();
    let mut random = Random::new();
    let loads =
        [python("python", "subprocess"), node(), java(), go()].map(|load| (load, random.below(u64::MAX)));
    let results = each(AT_ONCE, loads.into(), |(load, seed)| {
        let (mut running, mut hand, mut random) = (Running::start(load), Hand::default(), Random::of(seed));
        let (wanted, mut killed, mut inside, mut tried) = (rounds(30, 300), 0, 0, 0);
        while killed < wanted && tried < wanted * 20 {
            running.go_on(1);
            let zombies = running.orphans();
            let wish = Wish { patience: Duration::from_millis(300), ..Wish::new() };
            tried += 1;
            let Ok(tracer) = hand.start_on(running.holder, &zombies, wish) else { continue };
            let deadline = Instant::now() + Duration::from_millis(100);
            while !running.is_traced() && Instant::now() < deadline {
                std::hint::spin_loop();
            }
            let until = Instant::now() + Duration::from_micros(random.below(120));
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            let traced = running.is_traced();
            signal(tracer.pid(), libc::SIGKILL);
            if came(tracer.finish(wish.patience + OVERRUNS)).refusal.as_deref() == Some("tracer-died") {
                killed += 1;
                inside += usize::from(traced);
                thread::sleep(COOLS);
            }
            running.read();
        }
        running.go_on(GOES_ON);
        let line = format!("{:<8} {killed} tracers killed, {inside} while it was traced", running.name);
        let few = (killed < wanted || inside == 0).then(|| format!("that shows little: {line}"));
        (line, running.faults.iter().cloned().chain(few).collect::<Vec<_>>())
    });
    results.iter().for_each(|(line, _)| println!("{line}"));
    let faults: Vec<_> = results.into_iter().flat_map(|(_, faults)| faults).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_status_that_is_taken_from_its_parent_is_found() {
    let _machine = machine();
    let (mut running, mut hand) = (Running::start(node()), Hand::default());
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Its own child dies while it is stopped: it has no chance to be the first.
        signal(running.holder, libc::SIGSTOP);
        let until = Instant::now() + Duration::from_millis(50);
        let mut own = running.zombies("sh");
        while own.is_empty() && Instant::now() < until {
            own = running.zombies("sh");
        }
        let taken = !own.is_empty()
            && hand
                .start_on(running.holder, &own, Wish::new())
                .is_ok_and(|tracer| came(tracer.finish(OVERRUNS)).reaped > 0);
        signal(running.holder, libc::SIGCONT);
        if taken {
            break;
        }
        assert!(Instant::now() < deadline, "no child of its own was ever caught");
        thread::sleep(Duration::from_millis(3));
    }
    let goes_on = running.goes_on(100, SOON);
    assert!(goes_on.is_err() || !running.faults.is_empty(), "it has not noticed");
}

#[test]
fn a_program_that_its_tracer_kills_is_found() {
    let _machine = machine();
    let mut running = Running::start(run("perl", program("perl"), &[], "load.pl"));
    let pid = running.holder.to_string();
    let deadline = Instant::now() + PATIENCE;
    while running.child.try_wait().unwrap().is_none() {
        let mut careless = Command::new(built_example("careless"));
        run_briefly(careless.args([pid.as_str(), pid.as_str(), "dies-without-frame"]));
        assert!(Instant::now() < deadline, "it lives");
    }
    assert!(running.goes_on(100, SOON).is_err());
}
