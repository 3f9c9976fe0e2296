//! Decoders before bytes that nobody meant for them: they end, and they do not panic. The same seed each time.

use std::{fs::File, io::Write as _};

use super::{dwarf::Lines, elf::Elf, files::Module, go, perf_map};

/// xorshift: <https://www.jstatsoft.org/article/view/v008i14>
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }

    /// A copy with some bytes changed, sometimes cut off. For ever, as files are here.
    fn forge(&mut self, original: &[u8]) -> &'static [u8] {
        let mut bytes = original.to_vec();
        for _ in 0..1 + self.below(8) {
            let at = self.below(bytes.len());
            // What lengths and offsets are wrong by.
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, u8::try_from(self.below(256)).unwrap()][self.below(6)];
        }
        bytes.truncate(self.below(2 * original.len()));
        bytes.leak()
    }
}

#[test]
fn forged_tables_of_go_end() {
    let mut random = Random::new();
    for layout in go::tests::LAYOUTS {
        let original = go::tests::table(layout);
        for _ in 0..20_000 {
            let bytes = random.forge(&original);
            for address in [0, go::tests::TEXT, go::tests::TEXT + 0x25, go::tests::TEXT + 0x60, u64::MAX] {
                go::tests::names(bytes, address);
            }
        }
    }
}

#[test]
fn forged_perf_maps_end() {
    let mut random = Random::new();
    let original = b"7f0000001000 40 first\n7f0000001040 0x20 LazyCompile:~second /srv/a b.js:1\nffffffffffffffff ff third\n";
    let directory = tempfile::tempdir().unwrap();
    for round in 0..2_000 {
        let path = directory.path().join("map");
        File::create(&path).unwrap().write_all(random.forge(original)).unwrap();
        let names = perf_map::names(File::open(&path).unwrap(), &[0, 0x7f00_0000_1050, u64::MAX]);
        assert_eq!(names.len(), 3, "{round}");
    }
}

#[test]
fn forged_elf_files_end() {
    let original = std::fs::read("/bin/true").unwrap();
    let mut random = Random::new();
    for _ in 0..300 {
        let bytes = random.forge(&original);
        let Some(elf) = Elf::parse(bytes) else { continue };
        elf.build_id();
        elf.relocated(0);
        elf.bias(0x1000, 0x1000);
        Lines::of(&elf);
        let Some(module) = Module::parse(bytes) else { continue };
        for _ in 0..64 {
            let address = u64::try_from(random.below(0x10000)).unwrap();
            module.symbols().at(address);
            module.tables().cover(address);
            module.elf.bytes_before::<7>(address);
        }
    }
}
