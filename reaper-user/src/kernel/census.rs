//! Running the iterators: the seed, the list of zombies, the clock's anchor.

use std::{
    fs::File,
    io::{self, Read as _},
    time::Duration,
};

use aya::{Ebpf, maps::Array};
use reaper_ebpf::{Record, WORDS};

use super::{
    Clock, KernelError,
    attach::{self, Flavour},
    boot_now, map,
};

/// Enters every process that started before now.
pub(super) fn seed(ebpf: &mut Ebpf, flavour: Flavour) -> Result<(), KernelError> {
    let mut before: Array<_, u64> = map(ebpf, "SEED_BEFORE")?;
    before.set(0, boot_now().0, 0).map_err(|error| KernelError::map("SEED_BEFORE", error))?;
    let mut iteration = open(ebpf, flavour.name("seed"))?;
    // It writes nothing: one read runs it over all tasks.
    let mut none = [0; 4096];
    while iteration.read(&mut none).map_err(|error| KernelError::system("taking the census", error))? != 0 {}
    Ok(())
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

fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<File, KernelError> {
    let refused = |error| KernelError::program(name, error);
    let iterator = attach::iterator(ebpf, name)?;
    let link = iterator.attach().map_err(refused)?;
    let link = iterator.take_link(link).map_err(refused)?;
    link.into_file().map_err(|error| KernelError::system("opening an iterator", io::Error::other(error)))
}
