//! The kernel side seen from userspace, and the only module that knows aya: loads and attaches the object, reads
//! the ledger, runs the census.

mod attach;
mod btf;
mod census;
mod clock;
mod error;
mod notices;
mod offsets;
mod patch;
mod pins;
mod requirements;
mod skipped;
mod table;
mod trim;

use std::{collections::HashSet, os::fd::AsFd, path::Path, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
};
use reaper_ebpf::{
    CMDLINE_BYTES, Forker, Record, WORD_FLAGS, WORDS, WaitProfile, counter, flag, meta, state,
};

use self::{
    attach::Always,
    btf::Btf,
    pins::{Set, Store},
    table::Table,
};
pub use self::{
    clock::{Clock, Moment, boot_now},
    error::{KernelError, lockdown},
    notices::{LogLines, Notices},
    pins::unload,
    requirements::{Requirement, Standing, demand, requirements},
};

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
    watched: HashMap<MapData, u32, [u64; 5]>,
    cmdlines: HashMap<MapData, u64, [u64; 33]>,
    counters: PerCpuArray<MapData, u64>,
    orders: census::Orders,
    meta: Array<MapData, u64>,
    /// Entries that were taken out of the overflow map from here.
    taken_back: u64,
    always: Always,
    on_demand: attach::OnDemand,
    flavour: attach::Flavour,
    no_cmdlines: Option<KernelError>,
    pinned: Option<Pinned>,
}

/// The set of pins that a kernel side lives in.
struct Pinned {
    store: Store,
    set: Set,
    /// What the set says it was made from, once it is complete.
    fingerprint: u64,
    /// It was there already.
    adopted: bool,
}

impl Kernel {
    /// Loads the object. Nothing is attached yet. With `pins` (a folder in a BPF file system, made where it is
    /// missing) the kernel side outlives this process, and what an earlier one has left is taken over.
    pub fn load(options: Options, pins: Option<&Path>) -> Result<Self, KernelError> {
        demand()?;
        let bytes = requirements::btf_bytes()?;
        let offsets = offsets::resolve(&Btf::parse(&bytes)?, options.pids_hierarchy != 0)?;
        let object = patch::patch(OBJECT, &offsets)?;
        let kernel_btf = aya::Btf::parse(&bytes, aya::Endianness::default())
            .map_err(|error| KernelError::load(error.into()))?;
        drop(bytes);
        let Some(root) = pins else { return Self::load_into(options, &object, &kernel_btf, None) };

        let store = Store::open(root)?;
        let fingerprint = pins::fingerprint(&[&object, format!("{options:?}").as_bytes()]);
        if let Some(set) = store.find(fingerprint)? {
            let pinned = Pinned { store, set, fingerprint, adopted: true };
            let mut kernel = Self::load_into(options, &object, &kernel_btf, Some(pinned))?;
            if kernel.adopt()? {
                return Ok(kernel);
            }
            tracing::warn!(path = %root.display(), "what is pinned there is not what it says; it is replaced");
        }
        let store = Store::open(root)?;
        let set = store.make()?;
        let pinned = Pinned { store, set, fingerprint, adopted: false };
        Self::load_into(options, &object, &kernel_btf, Some(pinned))
    }

    fn load_into(
        options: Options,
        object: &[u8],
        kernel_btf: &aya::Btf,
        pinned: Option<Pinned>,
    ) -> Result<Self, KernelError> {
        let mask = options.sizes.entries / reaper_ebpf::WAYS - 1;
        let all_cmdlines = u32::from(options.cmdlines == Cmdlines::All);
        let mut loader = EbpfLoader::new();
        loader.btf(Some(kernel_btf));
        loader
            .override_global("PIDS_HIERARCHY", &options.pids_hierarchy, true)
            .override_global("SET_MASK", &mask, true)
            .override_global("ALL_CMDLINES", &all_cmdlines, true)
            .map_max_entries("LEDGER", options.sizes.entries)
            .map_max_entries("OVERFLOW", options.sizes.overflow);
        if let Some(Pinned { set, .. }) = &pinned {
            for name in pins::MAPS {
                loader.map_pin_path(name, set.path(name));
            }
        }
        let mut ebpf = loader.load(object).map_err(KernelError::load)?;
        let attach::Loaded { flavour, no_cmdlines } = attach::load(&mut ebpf, kernel_btf)?;

        let ledger = take(&mut ebpf, "LEDGER")?;
        let Map::Array(ledger) = ledger else {
            return Err(KernelError::Unavailable {
                what: "the object's ledger is not an array".to_owned(),
                remedy: "rebuild it with `cargo xtask build-ebpf`".to_owned(),
            });
        };
        let table = Table::map(ledger.fd().as_fd(), options.sizes.entries)
            .map_err(|error| KernelError::system("mapping the ledger", error))?;
        let cmdlines = if no_cmdlines.is_some() { Cmdlines::Off } else { options.cmdlines };
        let on_demand = attach::OnDemand::new(cmdlines);
        Ok(Self {
            table,
            overflow: map(&mut ebpf, "OVERFLOW")?,
            forkers: map(&mut ebpf, "FORKERS")?,
            watched: map(&mut ebpf, "WATCHED")?,
            cmdlines: map(&mut ebpf, "CMDLINES")?,
            counters: map(&mut ebpf, "COUNTERS")?,
            orders: census::Orders::new(&mut ebpf)?,
            meta: map(&mut ebpf, "META")?,
            taken_back: 0,
            always: Always::default(),
            on_demand,
            flavour,
            no_cmdlines,
            pinned,
            ebpf,
        })
    }

    /// Takes over the set's programs and links. False where they are not ours.
    fn adopt(&mut self) -> Result<bool, KernelError> {
        let Some(Pinned { set, .. }) = &self.pinned else { return Ok(false) };
        let Some(always) = Always::adopt(&mut self.ebpf, self.flavour, set)? else { return Ok(false) };
        self.always = always;
        // Whom the last daemon watched is nothing to this one.
        let watched: Vec<u32> = self.watched.keys().flatten().collect();
        for holder in watched {
            self.unwatch(holder);
        }
        let in_overflow = self.overflow.keys().flatten().count() as u64;
        let (put, taken) = (self.count(counter::OVERFLOW_IN)?, self.count(counter::OVERFLOW_OUT)?);
        self.taken_back = put.saturating_sub(taken).saturating_sub(in_overflow);
        Ok(true)
    }

    /// True where an earlier daemon's kernel side was taken over.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.pinned.as_ref().is_some_and(|pinned| pinned.adopted)
    }

    /// Attaches what is always attached, then enters every process that was there before. What other sets were
    /// pinned in the same folder is removed after that.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        if !self.adopted() {
            let set = self.pinned.as_ref().map(|pinned| &pinned.set);
            self.always = Always::attach(&mut self.ebpf, self.flavour, set)?;
        }
        self.on_demand.settle(&mut self.ebpf, false)?;
        let others = match &self.pinned {
            Some(Pinned { store, set, .. }) => store.has_others(set)?,
            None => false,
        };
        if self.adopted() {
            // This very process included, which the check of the offsets looks for.
            self.orders.carry_out(&mut self.ebpf, self.flavour, boot_now(), flag::RECOVERED)?;
        } else {
            // What another set's daemon may have told of is told again, and marked as such.
            let flags = if others { flag::RECOVERED } else { 0 };
            self.orders.carry_out(&mut self.ebpf, self.flavour, boot_now(), flags)?;
            // No hook of this set has missed them.
            self.say(counter::HOOK_MISSED, self.count(counter::HOOK_MISSED)?)?;
        }
        let Some(Pinned { store, set, fingerprint, adopted }) = &self.pinned else { return Ok(()) };
        if !adopted {
            let complete = self.meta.set(meta::FINGERPRINT, fingerprint, 0);
            complete.map_err(|error| KernelError::map("META", error))?;
        }
        for replaced in store.keep_only(set)? {
            tracing::info!(replaced, "removed what another version or an interrupted start had pinned");
        }
        Ok(())
    }

    /// Compares the ledger with the processes that there are: what a hook has missed is entered, with
    /// [`flag::RECOVERED`]. Returns the identity bits of all processes.
    pub fn census(&mut self) -> Result<HashSet<u64>, KernelError> {
        /// A fork is in the kernel's list of processes a moment before its hook runs.
        const YOUNG: u64 = 2_000_000_000;
        let before = BootTime(boot_now().0.saturating_sub(YOUNG));
        let keys = self.orders.carry_out(&mut self.ebpf, self.flavour, before, flag::RECOVERED)?;
        Ok(keys.into_iter().map(|key| key & reaper_ebpf::ID_MASK).collect())
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
        self.watched.insert(tgid, [start, 0, 0, 0, 0], 0).is_ok()
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

    /// What a holder on probation was seen waiting for.
    #[must_use]
    pub fn waits(&self, tgid: u32) -> Option<WaitProfile> {
        let [start, any, one, last, number] = self.watched.get(&tgid, 0).ok()?;
        Some(WaitProfile { start, any, one, last, last_number: low(number), zero: 0 })
    }

    /// Whether there ever was a process that found no room.
    pub fn is_full(&self) -> Result<bool, KernelError> {
        Ok(self.count(counter::FORK_UNRECORDED)? + self.count(counter::DEATH_LOST)? > 0)
    }

    /// A counter's sum over all CPUs.
    pub fn count(&self, counter: u32) -> Result<u64, KernelError> {
        let values: PerCpuValues<u64> =
            self.counters.get(&counter, 0).map_err(|error| KernelError::map("COUNTERS", error))?;
        Ok(values.iter().sum())
    }

    /// What of a counter has been reported, by this daemon or by one before it.
    pub fn said(&self, counter: u32) -> Result<u64, KernelError> {
        self.meta.get(&(meta::SAID + counter), 0).map_err(|error| KernelError::map("META", error))
    }

    /// Writes down what of a counter has been reported.
    pub fn say(&mut self, counter: u32, total: u64) -> Result<(), KernelError> {
        self.meta.set(meta::SAID + counter, total, 0).map_err(|error| KernelError::map("META", error))
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

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}
