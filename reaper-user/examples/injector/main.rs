//! What making a holder wait costs it: how long it stands still, and how long it takes for each zombie.
//!
//! `injector REAPER HOLDER ROUNDS` prints one JSON object a line. HOLDER is the example of that name; it rests in a read.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use reaper::{
    identity::Identity,
    proc::Proc,
    remedy::{Handle, Injector, Options, Target},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// Zombies of one batch.
const BATCHES: [usize; 4] = [1, 10, 100, 1_000];

/// All that a holder has, in one go.
const MANY: usize = 10_000;

/// How many of them are reaped by one order: as many as one remedy is about.
const ORDER: usize = 256;

/// Zombies that are reaped one by one, each in a stop of its own, and those that a debugger is asked to.
const ONE_BY_ONE: usize = 100;
const BY_DEBUGGER: usize = 5;

/// Zombies of a holder that runs meanwhile and looks at the clock.
const BESIDE_CLOCK: usize = 100;

const MAX_PAUSE: Duration = Duration::from_millis(2);

fn main() -> Result<()> {
    let mut words = env::args_os().skip(1);
    let mut word = |what| words.next().with_context(|| format!("{what} is missing"));
    let (reaper, holder) = (PathBuf::from(word("REAPER")?), PathBuf::from(word("HOLDER")?));
    let rounds: usize = word("ROUNDS")?.to_str().context("ROUNDS is no number")?.parse()?;
    let mut bench = Bench::start(&reaper, &holder)?;
    for batch in BATCHES {
        let mut measured = Measured::default();
        for _ in 0..(rounds * 100 / batch).clamp(3, rounds * 10) {
            let zombies = bench.leak(batch)?;
            measured.add(&bench.reap(&zombies)?, batch);
        }
        measured.print(&format!("batches of {batch}"))?;
    }
    let mut measured = Measured::default();
    for _ in 0..3 {
        let zombies = bench.leak(MANY)?;
        let began = Instant::now();
        for zombies in zombies.chunks(ORDER) {
            measured.add(&bench.reap(zombies)?, zombies.len());
        }
        measured.totals.push(began.elapsed());
    }
    measured.print(&format!("{MANY} in orders of {ORDER}"))?;
    let mut measured = Measured::default();
    for zombie in bench.leak(ONE_BY_ONE)? {
        measured.add(&bench.reap(&[zombie])?, 1);
    }
    measured.print("one order for each")?;
    bench.by_its_clock(rounds)?;
    let row = debugger(&reaper, &holder)?;
    Ok(writeln!(io::stdout(), "{row}")?)
}

/// The same by a debugger, with all that it does from its start to its end, and what becomes of the holder: it has one of its own.
fn debugger(reaper: &std::path::Path, holder: &std::path::Path) -> Result<serde_json::Value> {
    let what = "a debugger's call, from its start to its end";
    let mut measured = Measured::default();
    for _ in 0..BY_DEBUGGER {
        let mut bench = Bench::start(reaper, holder)?;
        let [zombie] = bench.leak(1)?.try_into().map_err(|_| anyhow::anyhow!("no zombie"))?;
        let (took, said) = bench.debug(zombie)?;
        let reaped = !bench.is_zombie(zombie);
        // It answers as before, or has been harmed.
        let lives = bench.leak(1).is_ok();
        if !(reaped && lives) {
            return Ok(json!({ "what": what, "reaped": reaped, "holder_goes_on": lives, "said": said }));
        }
        measured.add(&[took], 1);
    }
    measured.row(what)
}

/// Pauses of a holder.
#[derive(Default)]
struct Measured {
    pauses: Vec<Duration>,
    zombies: usize,
    totals: Vec<Duration>,
}

impl Measured {
    fn add(&mut self, pauses: &[Duration], zombies: usize) {
        self.pauses.extend(pauses);
        self.zombies += zombies;
    }

    fn print(self, what: &str) -> Result<()> {
        let row = self.row(what)?;
        Ok(writeln!(io::stdout(), "{row}")?)
    }

    fn row(mut self, what: &str) -> Result<serde_json::Value> {
        self.pauses.sort_unstable();
        let micros = |duration: Duration| duration.as_micros();
        let at = |part: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a place in a list"
            )]
            let place = ((self.pauses.len().max(1) - 1) as f64 * part) as usize;
            self.pauses.get(place).copied().map(micros)
        };
        let all: Duration = self.pauses.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let each = all.as_nanos() as f64 / 1_000.0 / self.zombies.max(1) as f64;
        Ok(json!({
            "what": what,
            "pauses": self.pauses.len(),
            "p50_us": at(0.5),
            "p99_us": at(0.99),
            "max_us": at(1.0),
            "us_per_zombie": each,
            "total_ms": self.totals.iter().map(Duration::as_millis).max(),
        }))
    }
}

struct Bench {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    handle: Handle,
    injector: Injector,
}

impl Bench {
    fn start(reaper: &std::path::Path, holder: &std::path::Path) -> Result<Self> {
        let mut child = Command::new(holder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("the holder has no pipe")?;
        let answers = BufReader::new(child.stdout.take().context("the holder has no pipe")?);
        let proc = Proc::at("/proc");
        let start = proc.see(child.id())?.start();
        let handle = Handle::open(&proc, Identity { pid: child.id(), start })
            .map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        Ok(Self { child, orders, answers, handle, injector: Injector::new(proc, reaper.to_owned()) })
    }

    /// So many zombies of the holder's.
    fn leak(&mut self, zombies: usize) -> Result<Vec<Target>> {
        writeln!(self.orders, "churn {zombies} {zombies}")?;
        let proc = Proc::at("/proc");
        let mut leaked = Vec::new();
        for line in self.answers.by_ref().lines() {
            let line = line?;
            let Some(rest) = line.strip_prefix("leaked ") else { break };
            let pid: u32 = rest.split(' ').next().context("no pid")?.parse()?;
            let deadline = Instant::now() + Duration::from_secs(10);
            let seen = loop {
                let seen = proc.see(pid)?;
                if seen.state == 'Z' {
                    break seen;
                }
                ensure!(Instant::now() < deadline, "{pid} is no zombie");
                std::thread::yield_now();
            };
            leaked.push(Target { identity: Identity { pid, start: seen.start() }, ns_pid: Some(pid) });
        }
        ensure!(leaked.len() == zombies, "{} of {zombies} were leaked", leaked.len());
        Ok(leaked)
    }

    fn reap(&mut self, zombies: &[Target]) -> Result<Vec<Duration>> {
        let options = Options { allow_interrupted_wait: false, grace: Duration::ZERO, max_pause: MAX_PAUSE };
        let deed = self.injector.reap(&self.handle, zombies, &options);
        if let Some(refusal) = deed.refusal {
            anyhow::bail!("refused: {refusal}");
        }
        let taken = deed.taken.iter().filter(|(_, taken)| taken.is_ok()).count();
        ensure!(taken == zombies.len(), "{taken} of {} were taken", zombies.len());
        Ok(deed.pauses)
    }

    /// What a holder that runs sees itself: the longest time between two looks at its clock, while it is made to wait; beside the
    /// longest pause that was told of each order; and what it sees when nobody interferes, which is the machine's doing.
    fn by_its_clock(&mut self, rounds: usize) -> Result<()> {
        let [mut told, mut seen, mut quiet] = [(); 3].map(|()| Measured::default());
        for _ in 0..rounds * 3 {
            let zombies = self.leak(BESIDE_CLOCK)?;
            let mut took = Duration::ZERO;
            let gap = self.longest_gap(|bench| {
                let began = Instant::now();
                let pauses = bench.reap(&zombies)?;
                took = began.elapsed();
                told.add(&[pauses.into_iter().max().unwrap_or_default()], BESIDE_CLOCK);
                Ok(())
            })?;
            seen.add(&[gap], BESIDE_CLOCK);
            let gap = self.longest_gap(|_| {
                std::thread::sleep(took);
                Ok(())
            })?;
            quiet.add(&[gap], BESIDE_CLOCK);
        }
        told.print(&format!("{BESIDE_CLOCK} of one that runs: the longest pause"))?;
        seen.print("  the longest that its own clock stood")?;
        quiet.print("  the same with nobody there")
    }

    /// The longest time between two looks of the holder's at its clock while something is done.
    fn longest_gap(&mut self, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<Duration> {
        writeln!(self.orders, "clock")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line == "ticking\n", "the holder says {line:?}");
        let done = meanwhile(self);
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, Signal::USR1)?;
        line.clear();
        self.answers.read_line(&mut line)?;
        done?;
        let longest = line.trim_end().strip_prefix("clock ").with_context(|| line.clone())?;
        Ok(Duration::from_nanos(longest.parse()?))
    }

    /// What a debugger takes for it, and says.
    fn debug(&self, zombie: Target) -> Result<(Duration, String)> {
        let pid = zombie.identity.pid;
        let call = format!("call ((int (*)(int, int *, int, void *)) wait4)({pid}, 0, 1, 0)");
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch", "-p", &self.child.id().to_string(), "-ex", &call]);
        let began = Instant::now();
        let output = gdb.output().context("gdb")?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((began.elapsed(), said))
    }

    fn is_zombie(&self, zombie: Target) -> bool {
        let seen = Proc::at("/proc").see(zombie.identity.pid);
        seen.is_ok_and(|seen| seen.state == 'Z' && seen.parent == self.child.id())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
