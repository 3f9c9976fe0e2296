//! A file's functions by its symbol table.

use super::elf::Elf;

/// Functions, sorted by address.
pub(super) struct Symbols {
    sorted: Vec<(u64, u64, &'static [u8])>,
}

impl Symbols {
    /// Of a file.
    pub(super) fn of(elf: &Elf) -> Self {
        let mut sorted = elf.functions();
        // Of several names for one function the one with a size, then the first by the alphabet.
        sorted.sort_unstable_by_key(|(address, size, name)| (*address, std::cmp::Reverse(*size), *name));
        sorted.dedup_by_key(|(address, _, _)| *address);
        Self { sorted }
    }

    /// The name of the function that an address is in, as the linker knows it.
    pub(super) fn at(&self, address: u64) -> Option<&'static [u8]> {
        let behind = self.sorted.partition_point(|(start, _, _)| *start <= address);
        // One that was written in assembler may have no size, and lie within none: it ends where another begins.
        let (start, size, name) = self.sorted.get(behind.checked_sub(1)?)?;
        let ends = if *size == 0 { self.sorted.get(behind)?.0 } else { start.saturating_add(*size) };
        (address < ends).then_some(*name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_between_functions_has_no_name() {
        let symbols = Symbols { sorted: vec![(10, 5, b"a"), (20, 0, b"b"), (30, 1, b"c")] };
        let names: Vec<_> = [9, 10, 14, 15, 20, 29, 30, 31].map(|address| symbols.at(address)).into();
        let [a, b, c] = [Some(&b"a"[..]), Some(&b"b"[..]), Some(&b"c"[..])];
        assert_eq!(names, [None, a, a, None, b, b, c, None]);
    }
}
