//! Running the iterators: the census, the list of zombies, the clock's anchor.

use std::{
    fs::File,
    io::{self, Read as _},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use reaper_ebpf::{Record, WORDS, seed};

use super::{
    Clock, KernelError,
    attach::{self, Flavour},
    map,
};
use crate::identity::BootTime;

/// What the census is told to do, in the object's own map.
pub(super) struct Orders(Array<MapData, u64>);

impl Orders {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        map(ebpf, "SEED").map(Self)
    }

    /// Enters every process that started before `before` and that the ledger does not know, with `flags`. It is the `first` where
    /// the hooks were attached only now. Returns the keys of all that are there.
    pub(super) fn carry_out(
        &mut self,
        ebpf: &mut Ebpf,
        flavour: Flavour,
        before: BootTime,
        flags: u32,
        first: bool,
    ) -> Result<Vec<u64>, KernelError> {
        let Self(orders) = self;
        let first = if first { seed::FIRST } else { 0 };
        for (place, value) in [(seed::BEFORE, before.0), (seed::FLAGS, u64::from(flags) | first)] {
            orders.set(place, value, 0).map_err(|error| KernelError::map("SEED", error))?;
        }
        let mut bytes = Vec::new();
        open(ebpf, flavour.name("census"))?
            .read_to_end(&mut bytes)
            .map_err(|error| KernelError::system("taking the census", error))?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
    }
}

/// Every process that is dead now.
pub(super) fn zombies(ebpf: &mut Ebpf) -> Result<Vec<Record>, KernelError> {
    let mut bytes = Vec::new();
    open(ebpf, "zombies")?
        .read_to_end(&mut bytes)
        .map_err(|error| KernelError::system("taking the census", error))?;
    Ok(bytes.as_chunks::<{ WORDS * 8 }>().0.iter().map(|slot| Record::from_words(words(slot))).collect())
}

/// Samples jiffies and the boot clock over a little more than a tick of the slowest kernel.
pub(super) fn clock(ebpf: &mut Ebpf) -> Result<Clock, KernelError> {
    const SAMPLES: u32 = 24;
    const APART: Duration = Duration::from_micros(500);
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        let mut bytes = [0; 16];
        open(ebpf, "anchor")?
            .read_exact(&mut bytes)
            .map_err(|error| KernelError::system("reading the kernel's clock", error))?;
        samples.push(words(&bytes));
        std::thread::sleep(APART);
    }
    Clock::new(&samples)
        .ok_or_else(|| KernelError::system("reading the kernel's clock", io::Error::other("no sample")))
}

pub(super) fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

/// Opens an iterator, which looks around when it is read.
pub(super) fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<File, KernelError> {
    let refused = |error| KernelError::program(name, error);
    let iterator = attach::iterator(ebpf, name)?;
    let link = iterator.attach().map_err(refused)?;
    let link = iterator.take_link(link).map_err(refused)?;
    link.into_file().map_err(|error| KernelError::system("opening an iterator", io::Error::other(error)))
}
