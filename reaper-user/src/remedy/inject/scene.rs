//! A holder as it is looked at again and again: its threads, its memory, and where in it the frame goes.

use std::{fs::File, io, path::PathBuf, thread, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use super::{
    attempt,
    memory::Memory,
    order::{Answer, Order},
    outcome::no_place,
    place::{MainStack, NoPlace, Place as FramePlace},
    threads::{Fitness, Place, Thread},
};
use crate::proc::{
    Proc,
    maps::{Mapping, mappings},
};

/// How long between two looks at whether a frame that a dead tracer has left is still used.
const UNWINDS: Duration = Duration::from_millis(40);

/// Threads that are tried in one round.
const TRIED: usize = 16;

/// A holder.
pub(super) struct Scene {
    holder: u32,
    pub(super) directory: PathBuf,
    /// A thread that was there.
    pub(super) tid: u32,
    pub(super) threads: Vec<Thread>,
    pub(super) place: FramePlace,
    /// Where this process may run.
    cpus: CpuSet,
}

impl Scene {
    pub(super) fn open(order: &Order, directory: PathBuf) -> Result<Self, Answer> {
        let living = Proc::at("/proc").of_living(order.holder.pid);
        let tid = living.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(order.holder.pid);
        let stack = mappings(&living).into_iter().find(Mapping::is_stack);
        let stack = stack.ok_or_else(|| Answer::refused("no-room", "it has no main stack"))?;
        let not_opened = |name: &str, error: io::Error| {
            Answer::refused("not-permitted", format!("{}: {error}", living.join(name).display()))
        };
        let pages = File::open(living.join("pagemap")).map_err(|error| not_opened("pagemap", error))?;
        let memory = Memory::open(&living).map_err(|error| not_opened("mem", error))?;
        // Three descriptors each: what is needed in any case is open by now.
        if let Rlimit { maximum: Some(most), .. } = getrlimit(Resource::Nofile) {
            let _fewer = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) });
        }
        let threads = Thread::all(&directory);
        let place = FramePlace::new(memory, order.holder.start_ticks, stack, pages);
        let place = place.map_err(|reason| no_place(&reason))?;
        let cpus = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        Ok(Self { holder: order.holder.pid, directory, tid, threads, place, cpus })
    }

    /// On the processor on which the thread ran last: waking each other across processors costs more than the calls. Only where
    /// this process may be anyway: others may be kept free for somebody.
    pub(super) fn run_beside(&self, thread: &Thread) {
        if let Some(stat) = thread.stat()
            && stat.cpu < CpuSet::MAX_CPU
            && self.cpus.is_set(stat.cpu)
        {
            let mut cpus = CpuSet::new();
            cpus.set(stat.cpu);
            // Only a matter of speed.
            let _elsewhere = sched_setaffinity(None, &cpus);
        }
    }

    /// Wherever it may: what is done between two stops is not to keep the holder from its processor.
    pub(super) fn run_anywhere(&self) {
        let _as_it_is = sched_setaffinity(None, &self.cpus);
    }

    /// Waits until nobody uses what an earlier tracer left when it died.
    pub(super) fn let_unwind(&self) -> Result<(), Answer> {
        let in_use = matches!(self.place.left(), Some((_, true)));
        // Whoever runs may be in it, until it has been seen elsewhere.
        let mut unclear: Vec<&Thread> = self.threads.iter().collect();
        for again in [true, true, true, false] {
            unclear.retain(|thread| match thread.place() {
                Some(Place::Blocked { stack, .. }) if thread.tid == self.holder => {
                    self.place.may_be_in_use_at(stack)
                }
                // Its own stack is elsewhere, whatever is written here.
                Some(Place::Blocked { stack, .. }) => self.place.is_low(stack),
                Some(Place::Running) => in_use,
                None => false,
            });
            if unclear.is_empty() {
                return Ok(());
            }
            if again {
                thread::sleep(UNWINDS);
            }
        }
        Err(no_place(&NoPlace::Unwinding))
    }

    /// The threads that can be used, the best first; of equal ones the main thread.
    pub(super) fn ranked(&self) -> Vec<(Fitness, usize)> {
        let holder = self.holder;
        let mut ranked: Vec<_> = self
            .threads
            .iter()
            .enumerate()
            .filter_map(|(place, thread)| Some((thread.fitness(holder)?, thread.tid != holder, place)))
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(fitness, _, place)| (fitness, place)).take(TRIED).collect()
    }

    /// The main thread, where it was there.
    pub(super) fn main(&self) -> Option<&Thread> {
        self.threads.iter().find(|thread| thread.tid == self.holder)
    }

    /// Where the main thread's stack pointer is, where it is blocked or has ended.
    pub(super) fn main_stack(&self) -> Option<MainStack> {
        attempt::main_stack(self.main())
    }
}
