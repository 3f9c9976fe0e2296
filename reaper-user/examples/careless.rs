//! Injectors that get one thing wrong, made of the pieces that reaper's own is made of. The harmlessness matrix must find what
//! each of them does to a holder; of reaper itself none is a part.
//!
//! `careless HOLDER THREAD HOW` makes the thread, which rests in a call, make another one, and
//!
//! - `dies`: is killed before it puts the registers back. That is as it should be: the thread falls back into its frame.
//! - `dies-signalling NUMBER`: the same, having sent a signal. That is as it should be: it is handled when the frame is left.
//! - `dies-signalling-unmasked NUMBER`: the same, having given the thread its own signal mask back before.
//! - `dies-without-frame`: the same, having laid no frame.
//! - `dies-with-legacy-image`: the same with a frame whose image of the vector registers is the 512 bytes from before AVX.
//! - `signals NUMBER`: sends a signal meanwhile, and puts everything back. That is as it should be.
//! - `signals-and-insists NUMBER`: the same, having the interrupted call made again whatever happens (ERESTARTNOINTR).
//! - `interrupts FROM TO`: with the thread in its own code between two addresses, and puts everything back.

use std::{
    env,
    fs::File,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use reaper::{
    proc::{
        Proc,
        maps::{Mapping, mappings},
    },
    remedy::inject::{
        Cache, Code, arch, layout,
        memory::Memory,
        place::Place,
        ptrace,
        puppet::{Broken, Puppet},
        seccomp::Filters,
    },
};
use rustix::process::{Pid, Signal, getpid, kill_process};

/// How long a thread is looked for between two addresses.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an image without AVX, and where the kernel looks for the sign that there is more.
/// <https://elixir.bootlin.com/linux/v6.12/source/arch/x86/include/uapi/asm/sigcontext.h> (`struct _fpstate_64`)
const LEGACY_BYTES: usize = 512;
const MARKS: std::ops::Range<usize> = 464..512;

/// Where the result of a call is among the registers that ptrace shows, and where the instruction pointer is.
const RESULT: usize = 10;
const INSTRUCTION: usize = 16;

/// To be made again, also where a handler has run.
const RESTART_IN_ANY_CASE: i64 = -513;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [holder, tid, how @ ..] = words.as_slice() else { bail!("usage: careless HOLDER THREAD HOW") };
    let (holder, tid) = (holder.parse()?, tid.parse()?);
    let careless = Careless::new(holder, tid)?;
    ptrace::expect_stops();
    match *how {
        ["dies"] => careless.dies(true, |_| ()),
        ["dies-signalling", number] => careless.dies_signalling(number.parse()?, false),
        ["dies-signalling-unmasked", number] => careless.dies_signalling(number.parse()?, true),
        ["dies-without-frame"] => careless.dies(false, |_| ()),
        ["dies-with-legacy-image"] => careless.dies(true, |image| {
            image.truncate(LEGACY_BYTES);
            if let Some(marks) = image.get_mut(MARKS) {
                marks.fill(0);
            }
        }),
        ["signals", number] => careless.signals(number.parse()?, None),
        ["signals-and-insists", number] => careless.signals(number.parse()?, Some(RESTART_IN_ANY_CASE)),
        ["interrupts", from, to] => careless.interrupts(from.parse()?..to.parse()?),
        _ => bail!("{how:?}: there is no such mistake"),
    }
}

struct Careless {
    holder: u32,
    tid: u32,
    start: u64,
    code: Code,
    place: Place,
}

impl Careless {
    fn new(holder: u32, tid: u32) -> Result<Self> {
        let proc = Proc::at("/proc");
        let start = proc.see(holder)?.start_ticks;
        let code = Cache::default().find(&proc, holder)?;
        let directory = Path::new("/proc").join(holder.to_string());
        let stack = mappings(&directory).into_iter().find(Mapping::is_stack).context("no stack")?;
        let (memory, pages) = (Memory::open(&directory)?, File::open(directory.join("pagemap"))?);
        let place = Place::new(memory, start, stack, pages).map_err(|no| anyhow!("no place: {no:?}"))?;
        Ok(Self { holder, tid, start, code, place })
    }

    fn registers(&self) -> Result<arch::Registers> {
        ptrace::registers(self.tid)?.context("another architecture")
    }

    fn stop(&self) -> Result<arch::Registers> {
        ptrace::seize(self.tid)?;
        Puppet::stop(self.tid).map_err(broken)?;
        self.registers()
    }

    /// Makes the thread make a call, and leaves it standing behind that.
    fn call(&self, puppet: &mut Puppet, frame: bool, image: impl Fn(&mut Vec<u8>)) -> Result<()> {
        let mut context = puppet.context()?.context("the vector registers cannot be read")?;
        image(&mut context.vectors);
        let layout = layout::single(self.place.at(), self.start, &self.code, &context);
        let layout = layout.context("no instruction")?;
        if frame {
            self.place.memory().write(layout.at, &layout.bytes)?;
        }
        let result = puppet.call(&layout, &self.code, libc::SYS_getpid, [0; 6]).map_err(broken)?;
        ensure!(result == i64::from(self.holder), "the call returned {result}");
        Ok(())
    }

    fn dies(&self, frame: bool, image: impl Fn(&mut Vec<u8>)) -> Result<()> {
        let mut puppet = Puppet::take(self.tid, self.stop()?, false, Filters::default());
        self.call(&mut puppet, frame, image)?;
        Ok(kill_process(getpid(), Signal::KILL)?)
    }

    fn dies_signalling(&self, signal: i32, unmasked: bool) -> Result<()> {
        let registers = self.stop()?;
        let mask = ptrace::signal_mask(self.tid)?;
        let mut puppet = Puppet::take(self.tid, registers, false, Filters::default());
        self.call(&mut puppet, true, |_| ())?;
        if unmasked {
            ptrace::set_signal_mask(self.tid, mask)?;
        }
        self.send(signal)?;
        Ok(kill_process(getpid(), Signal::KILL)?)
    }

    fn send(&self, signal: i32) -> Result<()> {
        let holder = i32::try_from(self.holder).ok().and_then(Pid::from_raw).context("no pid")?;
        Ok(kill_process(holder, Signal::from_named_raw(signal).context("no signal")?)?)
    }

    fn signals(&self, signal: i32, result: Option<i64>) -> Result<()> {
        let mut words = self.stop()?.words();
        if let (Some(result), Some(word)) = (result, words.get_mut(RESULT)) {
            *word = result.cast_unsigned();
        }
        let registers = arch::Registers::from_words(words);
        let mut puppet = Puppet::take(self.tid, registers, false, Filters::default());
        self.call(&mut puppet, true, |_| ())?;
        self.send(signal)?;
        ensure!(puppet.leave(0), "the thread could not be put back");
        Ok(())
    }

    fn interrupts(&self, section: std::ops::Range<u64>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let registers = self.stop()?;
            let at = registers.words().get(INSTRUCTION).copied();
            if registers.call().is_none() && at.is_some_and(|at| section.contains(&at)) {
                let mut puppet = Puppet::take(self.tid, registers, false, Filters::default());
                self.call(&mut puppet, true, |_| ())?;
                ensure!(puppet.leave(0), "the thread could not be put back");
                return Ok(());
            }
            ptrace::detach(self.tid, 0)?;
            ensure!(Instant::now() < deadline, "the thread is never found there");
            thread::sleep(Duration::from_micros(100));
        }
    }
}

fn broken(broken: Broken) -> anyhow::Error {
    anyhow!("{broken:?}")
}
