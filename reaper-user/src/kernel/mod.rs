//! The kernel side seen from userspace, and the only module that knows aya: loads and attaches the object, reads
//! the ledger, runs the census.

mod ancestors;
mod attach;
mod btf;
mod census;
mod clock;
mod costs;
mod counts;
mod error;
mod load;
mod memory;
mod natives;
mod notices;
mod offsets;
mod origins;
mod patch;
mod pinned_program;
mod pins;
mod reap_times;
mod refused;
mod release;
mod requirements;
mod skipped;
mod stages;
mod table;
mod trim;

use std::{collections::HashSet, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
};
use reaper_ebpf::{
    Awaited, CMDLINE_BYTES, Forker, Record, WORD_FLAGS, WORDS, WaitProfile, awaited, counter, flag, meta,
    state,
};

pub use self::{
    ancestors::{Forebear, id_of},
    clock::{Clock, Moment, boot_now},
    costs::ProgramCost,
    error::{KernelError, lockdown},
    natives::{Copied, Copying, Natives},
    notices::{LogLines, Notices},
    origins::{Origins, Running, Written},
    pins::unload,
    reap_times::ReapTimes,
    refused::RefusalHook,
    release::ReleaseHook,
    requirements::{
        INITIAL_PID_NAMESPACE, Requirement, Standing, demand, reads_others, reduced, requirements,
    },
};
use self::{attach::Always, load::Pinned, table::Table};

use crate::identity::BootTime;

/// The object, as `cargo xtask build-ebpf` made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("REAPER_BPF_OBJECT"));

/// `bpf(2)`'s flag for an update that must find the key.
const BPF_EXIST: u64 = 2;

/// How large the kernel side is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Slots of the table, a power of two, at least 4.
    pub entries: u32,
    /// Entries of the overflow map.
    pub overflow: u32,
}

impl Sizes {
    /// Bytes of kernel memory that the ledger takes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        // A preallocated hash element is its value, its key and a header of 48 bytes.
        self.entries as u64 * 64 + self.overflow as u64 * (64 + 8 + 48)
    }
}

/// Whose command lines are taken at exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmdlines {
    /// Nobody's.
    Off,
    /// Those of the children of holders on probation.
    Watched,
    /// Everybody's.
    All,
}

/// What to load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How large.
    pub sizes: Sizes,
    /// The number of the v1 hierarchy with the pids controller, 0 where there is none.
    pub pids_hierarchy: u32,
    /// Whose command lines are taken at exec.
    pub cmdlines: Cmdlines,
}

/// The loaded object.
pub struct Kernel {
    ebpf: Ebpf,
    table: Table,
    overflow: HashMap<MapData, u64, [u64; WORDS]>,
    forkers: HashMap<MapData, u64, [u64; 2]>,
    ancestors: ancestors::Ancestors,
    reap_times: reap_times::ByCgroup,
    watched: HashMap<MapData, u32, [u64; 6]>,
    awaited: HashMap<MapData, u64, [u64; 2]>,
    cmdlines: HashMap<MapData, u64, [u64; 33]>,
    counters: PerCpuArray<MapData, u64>,
    orders: census::Orders,
    meta: Array<MapData, u64>,
    /// Entries that were taken out of the overflow map from here.
    taken_back: u64,
    always: Always,
    on_demand: attach::OnDemand,
    release: release::Release,
    refused: refused::Refused,
    flavour: attach::Flavour,
    no_cmdlines: Option<KernelError>,
    no_origins: Option<KernelError>,
    no_natives: Option<KernelError>,
    copies: natives::Copies,
    stages: stages::Stages,
    memory: u64,
    pinned: Option<Pinned>,
}

impl Kernel {
    /// Compares the ledger with the processes that there are: what a hook has missed is entered, with
    /// [`flag::RECOVERED`]. Returns the identity bits of all processes.
    pub fn census(&mut self) -> Result<HashSet<u64>, KernelError> {
        /// A fork is in the kernel's list of processes a moment before its hook runs.
        const YOUNG: u64 = 2_000_000_000;
        let before = BootTime(boot_now().0.saturating_sub(YOUNG));
        let keys = self.orders.carry_out(&mut self.ebpf, self.flavour, before, flag::RECOVERED, false)?;
        Ok(keys.into_iter().map(|key| key & reaper_ebpf::ID_MASK).collect())
    }

    /// True where it outlives this process.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    /// Whether the pins are still where they were made; true where there are none.
    #[must_use]
    pub fn pins_are_there(&self) -> bool {
        self.pinned.as_ref().is_none_or(|pinned| pinned.set.is_there())
    }

    /// How often the kernel has skipped one of the programs that are always attached.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.always.skipped(&self.ebpf, self.flavour)
    }

    /// Why command lines cannot be taken at exec, where they cannot.
    #[must_use]
    pub const fn no_cmdlines(&self) -> Option<&KernelError> {
        self.no_cmdlines.as_ref()
    }

    /// The ring buffer with the kernel's notices. Once, and inside a runtime.
    pub fn notices(&mut self) -> Result<Notices, KernelError> {
        Notices::new(map(&mut self.ebpf, "NOTICES")?)
    }

    /// Bytes of kernel memory that all maps took when they were made, as the kernel counts them.
    #[must_use]
    pub const fn memory(&self) -> u64 {
        self.memory
    }

    /// Gives memory back to the system that loading needed and nothing else does.
    pub fn trim() {
        trim::trim();
    }

    /// The reader of the object's own log lines. Once, and inside a runtime.
    pub fn log(&mut self) -> Option<LogLines> {
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf)
            .inspect_err(|error| tracing::debug!(%error, "the kernel side's own log is not available"))
            .ok()?;
        LogLines::new(logger).ok()
    }

    /// Ties the kernel's stamps to the boot clock. Takes a few ticks.
    pub fn clock(&mut self) -> Result<Clock, KernelError> {
        census::clock(&mut self.ebpf)
    }

    /// Shows every dead process that was not reported to `visit`.
    pub fn each_dead(&self, visit: impl FnMut(Record)) -> Result<(), KernelError> {
        self.each(|found| found == state::DEAD, visit)
    }

    /// Shows every process to `visit` that is in one of the `wanted` states.
    pub fn each(
        &self,
        wanted: impl Fn(u64) -> bool,
        mut visit: impl FnMut(Record),
    ) -> Result<(), KernelError> {
        self.table.each(&wanted, &mut visit);
        self.each_in_overflow(|record| {
            if wanted(record.state()) {
                visit(record);
            }
        })
    }

    fn each_in_overflow(&self, mut visit: impl FnMut(Record)) -> Result<(), KernelError> {
        let (put, taken) = (self.count(counter::OVERFLOW_IN)?, self.count(counter::OVERFLOW_OUT)?);
        if put == taken + self.taken_back {
            return Ok(());
        }
        // An entry that is removed under the walk starts the walk anew or ends it: what was seen is seen once, and
        // the next sweep sees the rest.
        let mut seen = HashSet::new();
        for (id, words) in self.overflow.iter().map_while(Result::ok) {
            if seen.insert(id) {
                visit(Record::from_words(words));
            }
        }
        Ok(())
    }

    /// The record of a process by its identity bits, in any state.
    #[must_use]
    pub fn record(&self, id: u64) -> Option<Record> {
        self.table.get(id).or_else(|| self.overflow.get(&id, 0).ok().map(Record::from_words))
    }

    /// The process with this tgid whose start (ns since boot) is `right`: living, or dead and not freed yet. Dear
    /// where it is in the overflow map, which can only be walked: ask by [`Self::record`] where the start is known.
    pub fn process(&self, tgid: u32, right: impl Fn(u64) -> bool) -> Result<Option<Record>, KernelError> {
        let mut found = self.table.process(tgid, &right);
        if found.is_none() {
            self.each_in_overflow(|record| {
                if record.tgid() == tgid && right(record.start) {
                    found = Some(record);
                }
            })?;
        }
        Ok(found)
    }

    /// Marks a dead entry as reported, so that its release is announced. False where it is gone.
    pub fn stand(&mut self, id: u64) -> bool {
        self.transit(id, state::STANDING)
    }

    /// Marks an entry's report as written out, for a daemon that comes after this one.
    pub fn tell(&mut self, id: u64) {
        if self.table.set_flags(id, flag::TOLD) {
            return;
        }
        if let Ok(mut words) = self.overflow.get(&id, 0) {
            words[WORD_FLAGS] |= u64::from(flag::TOLD) << 32;
            // It may have been freed meanwhile.
            let _gone = self.overflow.insert(id, words, BPF_EXIST);
        }
    }

    /// Gives back an entry that has no process any more.
    pub fn forget(&mut self, id: u64) -> bool {
        let states = [state::ALIVE, state::DEAD, state::STANDING];
        if states.into_iter().any(|from| self.table.transit(id, from, state::FREE)) {
            return true;
        }
        let removed = self.overflow.remove(&id).is_ok();
        self.taken_back += u64::from(removed);
        removed
    }

    fn transit(&mut self, id: u64, to: u64) -> bool {
        if self.table.transit(id, state::DEAD, to) {
            return true;
        }
        let Ok(mut words) = self.overflow.get(&id, 0) else { return false };
        if reaper_ebpf::state_of(words[0]) != state::DEAD {
            return false;
        }
        words[0] = reaper_ebpf::key(to, id);
        // The kernel may have freed it meanwhile, before it could see the new state.
        self.overflow.insert(id, words, BPF_EXIST).is_ok() && self.overflow.get(&id, 0).is_ok()
    }

    /// The forker of a process that was forked with CLONE_PARENT.
    #[must_use]
    pub fn forker(&self, id: u64) -> Option<Forker> {
        let [tgid, start] = self.forkers.get(&id, 0).ok()?;
        Some(Forker { tgid: low(tgid), zero: 0, start })
    }

    /// The command line that was taken at exec: its bytes and whether it was longer.
    #[must_use]
    pub fn cmdline(&self, id: u64) -> Option<(Vec<u8>, bool)> {
        let words = self.cmdlines.get(&id, 0).ok()?;
        let (length, cut) = (low(words[0]) as usize, words[0] >> 32 != 0);
        let mut bytes: Vec<u8> = words[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(length.min(CMDLINE_BYTES));
        Some((bytes, cut))
    }

    /// Puts a holder on probation: its wait calls are recorded from now on. False where there is no room.
    pub fn watch(&mut self, tgid: u32, start: u64) -> bool {
        self.watched.insert(tgid, [start, 0, 0, 0, 0, 0], 0).is_ok()
    }

    /// Ends a holder's probation.
    pub fn unwatch(&mut self, tgid: u32) {
        if let Err(error) = self.watched.remove(&tgid) {
            tracing::debug!(tgid, %error, "a holder was not on probation");
        }
    }

    /// Attaches the hooks that only serve holders on probation while `wanted`, and detaches them later.
    pub fn settle(&mut self, wanted: bool) -> Result<(), KernelError> {
        self.on_demand.settle(&mut self.ebpf, wanted)
    }

    /// Attaches the hook that sees releases when they happen, where there is one, and says which. It stays.
    pub fn see_releases(&mut self) -> &ReleaseHook {
        self.release.attach(&mut self.ebpf)
    }

    /// What a holder on probation was seen waiting for.
    #[must_use]
    pub fn waits(&self, tgid: u32) -> Option<WaitProfile> {
        let [start, any, one, last, numbers, lost] = self.watched.get(&tgid, 0).ok()?;
        let (last_number, numbers) = (low(numbers), low(numbers >> 32));
        Some(WaitProfile { start, any, one, last, last_number, numbers, lost })
    }

    /// When a holder on probation last asked for this number. A kernel that does not tell a pid from a process group has it as
    /// both.
    #[must_use]
    pub fn awaited(&self, holder: u32, number: u32) -> Awaited {
        let [as_pid, as_group] = self.awaited.get(&awaited(holder, number), 0).unwrap_or_default();
        Awaited { as_pid, as_group }
    }

    /// Forgets the numbers that were asked for of which `keep` does not say that they are needed: it is given the holder and the
    /// number.
    pub fn prune_awaited(&mut self, keep: impl Fn(u32, u32) -> bool) {
        let keys: Vec<u64> = self.awaited.keys().flatten().collect();
        for key in keys {
            if !keep(low(key >> 32), low(key)) {
                // Gone already is as good.
                let _gone = self.awaited.remove(&key);
            }
        }
    }

    /// Whether there ever was a process that found no room.
    pub fn is_full(&self) -> Result<bool, KernelError> {
        Ok(self.counted(counter::FORK_UNRECORDED)? + self.counted(counter::DEATH_LOST)? > 0)
    }

    /// A counter's sum over all CPUs, with what was carried over from a set that this one has replaced.
    pub fn count(&self, counter: u32) -> Result<u64, KernelError> {
        Ok(self.counted(counter)? + self.said(meta::CARRIED + counter)?)
    }

    fn counted(&self, counter: u32) -> Result<u64, KernelError> {
        let values: PerCpuValues<u64> =
            self.counters.get(&counter, 0).map_err(|error| KernelError::map("COUNTERS", error))?;
        Ok(values.iter().sum())
    }

    /// What of a loss has been reported, by this daemon or by one before it: at a place of [`reaper_ebpf::meta`].
    pub fn said(&self, place: u32) -> Result<u64, KernelError> {
        self.meta.get(&place, 0).map_err(|error| KernelError::map("META", error))
    }

    /// Writes down what of a loss has been reported.
    pub fn say(&mut self, place: u32, total: u64) -> Result<(), KernelError> {
        self.meta.set(place, total, 0).map_err(|error| KernelError::map("META", error))
    }

    /// Every process that is dead now, without a ledger: one walk over the kernel's tasks.
    pub fn zombies(&mut self) -> Result<Vec<Record>, KernelError> {
        census::zombies(&mut self.ebpf)
    }
}

/// How long the on-demand hooks stay attached after the last holder left probation: attaching again right after
/// a detach waits for a grace period of the kernel (15 ms).
const LINGER: Duration = Duration::from_secs(5);

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError::Unavailable {
        what: format!("the object has no map `{name}`"),
        remedy: "rebuild it with `cargo xtask build-ebpf`".to_owned(),
    })
}

fn map<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    T::try_from(take(ebpf, name)?).map_err(|error| KernelError::map(name, error))
}

const fn high(word: u64) -> u32 {
    low(word >> 32)
}

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}
