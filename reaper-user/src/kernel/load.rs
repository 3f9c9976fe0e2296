//! Loading the object, into a set of pins or for this process alone, taking over what an earlier daemon has left, and
//! attaching in the order that leaves no gap.

use std::{os::fd::AsFd as _, path::Path, thread, time::Duration};

use aya::{EbpfLoader, maps::Map};
use reaper_ebpf::{counter, flag, meta};

use super::{
    Cmdlines, Kernel, KernelError, OBJECT, Options, ancestors, attach,
    attach::Always,
    boot_now,
    btf::Btf,
    census, clock, demand, map, memory, natives, offsets, origins, patch, pins,
    pins::{Set, Store},
    reap_times,
    refused::{Needs, Refused},
    release::Release,
    requirements,
    stages::Stages,
    table::Table,
    take,
};

/// Longer than a fork takes from when the kernel stamps it to when its hook runs, but where the machine stands still.
const IN_FORK: Duration = Duration::from_millis(20);

/// The set of pins that a kernel side lives in.
pub(super) struct Pinned {
    store: Store,
    pub(super) set: Set,
    /// What the set says it was made from, once it is complete.
    fingerprint: u64,
    /// It was there already.
    adopted: bool,
}

/// The numbers of the calls that wait, by which the registers of whoever makes one are read; 0 where the kernel lets no program
/// read registers (before 5.15).
#[derive(Clone, Copy)]
struct Waits {
    wait4: u32,
    waitid: u32,
}

impl Waits {
    fn of(btf: &Btf<'_>) -> Self {
        let number = |call: i64| u32::try_from(call).unwrap_or(0);
        if btf.has_function("bpf_task_pt_regs") {
            Self { wait4: number(libc::SYS_wait4), waitid: number(libc::SYS_waitid) }
        } else {
            Self { wait4: 0, waitid: 0 }
        }
    }
}

/// What this kernel has and others do not.
struct Found {
    waits: Waits,
    refused: Needs,
}

/// How many processors there may ever be.
fn processors() -> Result<u32, KernelError> {
    let number = aya::util::nr_cpus().map_err(|(what, error)| KernelError::system(what, error))?;
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

impl Kernel {
    /// Loads the object. Nothing is attached yet. With `pins` (a folder in a BPF file system, made where it is
    /// missing) the kernel side outlives this process, and what an earlier one has left is taken over.
    pub fn load(options: Options, pins: Option<&Path>) -> Result<Self, KernelError> {
        demand()?;
        let bytes = requirements::btf_bytes()?;
        let btf = Btf::parse(&bytes)?;
        let mut offsets = offsets::resolve(&btf, options.pids_hierarchy != 0)?;
        let found = Found { waits: Waits::of(&btf), refused: Needs::of(&btf) };
        offsets.extend_from_slice(found.refused.offsets());
        let object = patch::patch(OBJECT, &offsets)?;
        let kernel_btf = aya::Btf::parse(&bytes, aya::Endianness::default())
            .map_err(|error| KernelError::load(error.into()))?;
        drop(bytes);
        let Some(root) = pins else { return Self::load_into(options, &found, &object, &kernel_btf, None) };

        let store = Store::open(root)?;
        // The folder is locked: nobody is making these.
        store.remove_incomplete()?;
        let fingerprint = pins::fingerprint(&[&object, format!("{options:?}").as_bytes()]);
        if let Some(set) = store.find(fingerprint)? {
            let pinned = Pinned { store: store.clone(), set, fingerprint, adopted: true };
            let mut kernel = Self::load_into(options, &found, &object, &kernel_btf, Some(pinned))?;
            if kernel.adopt()? {
                return Ok(kernel);
            }
            tracing::warn!(path = %root.display(), "what is pinned there is not what it says; it is replaced");
        }
        let set = store.make()?;
        let pinned = Pinned { store, set, fingerprint, adopted: false };
        Self::load_into(options, &found, &object, &kernel_btf, Some(pinned))
    }

    fn load_into(
        options: Options,
        found: &Found,
        object: &[u8],
        kernel_btf: &aya::Btf,
        pinned: Option<Pinned>,
    ) -> Result<Self, KernelError> {
        let mask = options.sizes.entries / reaper_ebpf::WAYS - 1;
        let all_cmdlines = u32::from(options.cmdlines == Cmdlines::All);
        let tick = clock::tick();
        let prompt_ticks = reap_times::prompt_ticks(tick);
        let Found { waits, refused } = found;
        let [ucounts, own_pid_max] = refused.globals();
        let mut loader = EbpfLoader::new();
        loader.btf(Some(kernel_btf));
        loader
            .override_global("PIDS_HIERARCHY", &options.pids_hierarchy, true)
            .override_global("SET_MASK", &mask, true)
            .override_global("TICK", &tick, true)
            .override_global("PROMPT_TICKS", &prompt_ticks, true)
            .override_global("ALL_CMDLINES", &all_cmdlines, true)
            .override_global("WAIT4", &waits.wait4, true)
            .override_global("WAITID", &waits.waitid, true)
            .override_global("UCOUNTS", &ucounts, true)
            .override_global("OWN_PID_MAX", &own_pid_max, true)
            .map_max_entries("LEDGER", options.sizes.entries)
            .map_max_entries("OVERFLOW", options.sizes.overflow)
            .map_max_entries("COPY_SCRATCH", processors()?);
        if let Some(Pinned { set, .. }) = &pinned {
            for name in pins::MAPS {
                loader.map_pin_path(name, set.path(name));
            }
        }
        let mut ebpf = loader.load(object).map_err(KernelError::load)?;
        let attach::Loaded { flavour, no_cmdlines } = attach::load(&mut ebpf, kernel_btf)?;
        let stages = Stages::load(&mut ebpf, kernel_btf)?;
        let release = Release::load(&mut ebpf, kernel_btf);
        let refused = Refused::load(&mut ebpf, kernel_btf, refused)?;
        let no_origins = origins::load(&mut ebpf, kernel_btf).err();
        let no_natives = natives::load(&mut ebpf, kernel_btf).err();

        let ledger = take(&mut ebpf, "LEDGER")?;
        let Map::Array(ledger) = ledger else {
            return Err(KernelError::Unavailable {
                what: "the object's ledger is not an array".to_owned(),
                remedy: "rebuild it with `cargo xtask build-ebpf`".to_owned(),
            });
        };
        // While each of them is open.
        let memory = memory::of_maps();
        let table = Table::map(ledger.fd().as_fd(), options.sizes.entries)
            .map_err(|error| KernelError::system("mapping the ledger", error))?;
        let cmdlines = if no_cmdlines.is_some() { Cmdlines::Off } else { options.cmdlines };
        let on_demand = attach::OnDemand::new(cmdlines);
        Ok(Self {
            table,
            overflow: map(&mut ebpf, "OVERFLOW")?,
            forkers: map(&mut ebpf, "FORKERS")?,
            ancestors: ancestors::Ancestors::new(&mut ebpf)?,
            reap_times: reap_times::ByCgroup::new(&mut ebpf)?,
            watched: map(&mut ebpf, "WATCHED")?,
            awaited: map(&mut ebpf, "AWAITED")?,
            cmdlines: map(&mut ebpf, "CMDLINES")?,
            counters: map(&mut ebpf, "COUNTERS")?,
            orders: census::Orders::new(&mut ebpf)?,
            meta: map(&mut ebpf, "META")?,
            taken_back: 0,
            always: Always::default(),
            on_demand,
            release,
            refused,
            flavour,
            no_cmdlines,
            no_origins,
            no_natives,
            copies: natives::Copies::new(&mut ebpf)?,
            stages,
            memory,
            pinned,
            ebpf,
        })
    }

    /// Takes over the set's programs and links. False where they are not ours.
    fn adopt(&mut self) -> Result<bool, KernelError> {
        let Some(Pinned { set, .. }) = &self.pinned else { return Ok(false) };
        // A map whose pin was removed has been made anew by now, and is not the one that is written to.
        if set.maps().is_none_or(|maps| Ok(maps) != self.meta.get(&meta::MAPS, 0).map_err(drop)) {
            return Ok(false);
        }
        let Some(always) = Always::adopt(&mut self.ebpf, self.flavour, set)? else { return Ok(false) };
        self.always = always;
        // Whom the last daemon watched is nothing to this one.
        let watched: Vec<u32> = self.watched.keys().flatten().collect();
        for holder in watched {
            self.unwatch(holder);
        }
        self.prune_awaited(|_, _| false);
        let in_overflow = self.overflow.keys().flatten().count() as u64;
        let (put, taken) = (self.count(counter::OVERFLOW_IN)?, self.count(counter::OVERFLOW_OUT)?);
        self.taken_back = put.saturating_sub(taken).saturating_sub(in_overflow);
        Ok(true)
    }

    /// Ends the recording where nothing came of the start, so that no set is left that nobody will take over.
    pub fn abandon(&self) {
        let Some(Pinned { set, adopted: false, .. }) = &self.pinned else { return };
        if let Err(error) = set.remove() {
            tracing::warn!(%error, "what was pinned for this daemon could not be removed");
        }
    }

    /// True where an earlier daemon's kernel side was taken over.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.pinned.as_ref().is_some_and(|pinned| pinned.adopted)
    }

    /// Attaches what is always attached, then enters every process that was there before.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        if !self.adopted() {
            let set = self.pinned.as_ref().map(|pinned| &pinned.set);
            self.always = Always::attach(&mut self.ebpf, self.flavour, set)?;
        }
        let before = boot_now();
        // Whoever is forked since then is the hooks'. A fork that had begun is in the kernel's list of processes a moment
        // before its hook runs, and would be entered twice.
        thread::sleep(IN_FORK);
        self.on_demand.settle(&mut self.ebpf, false)?;
        let others = match &self.pinned {
            Some(Pinned { store, set, .. }) => !store.others(set)?.is_empty(),
            None => false,
        };
        let adopted = self.adopted();
        // What another daemon may have told of is told again, and marked as such.
        let flags = if adopted || others { flag::RECOVERED } else { 0 };
        // This very process included, which the check of the offsets looks for.
        self.orders.carry_out(&mut self.ebpf, self.flavour, before, flags, !adopted)?;
        Ok(())
    }

    /// What is attached has been seen to record what is true: its pins are a set from now on, and other sets in the same
    /// folder are removed. What those had counted and nobody has reported is counted on here.
    pub fn replace_others(&mut self) -> Result<(), KernelError> {
        let Some(Pinned { store, set, fingerprint, adopted }) = &self.pinned else { return Ok(()) };
        if !adopted {
            let maps = set.maps().unwrap_or_default();
            for (place, value) in [(meta::MAPS, maps), (meta::FINGERPRINT, *fingerprint)] {
                self.meta.set(place, value, 0).map_err(|error| KernelError::map("META", error))?;
            }
        }
        for other in store.others(set)? {
            let replaced = other.folder.display().to_string();
            let (_, unsaid) = other.remove()?;
            tracing::warn!(
                replaced,
                losses_known = unsaid.is_some(),
                "removed what another version, or one with other settings, had pinned; what it reported and was reaped while no \
                 daemon ran is not told of"
            );
            for (counter, count) in (0..).zip(unsaid.unwrap_or_default()) {
                // What goes in and out is each set's own.
                if matches!(counter, counter::OVERFLOW_IN | counter::OVERFLOW_OUT | counter::ANCESTOR_IN) {
                    continue;
                }
                let place = meta::CARRIED + counter;
                let carried = self.meta.get(&place, 0).unwrap_or(0) + count;
                self.meta.set(place, carried, 0).map_err(|error| KernelError::map("META", error))?;
            }
        }
        Ok(())
    }
}
