//! What Go's runtime needs to know of functions, and so is in a program whose symbols are gone: `.gopclntab`.
//! <https://github.com/golang/go/blob/go1.19/src/debug/gosym/pclntab.go> reads it too.

use super::{
    elf::{Elf, Section},
    names,
};
use crate::origin::symbols::message::Function;

/// Entries of a function's table of files or lines. The largest functions have some ten thousand.
const STEPS: usize = 1 << 18;

/// How the table is laid out; before Go 1.16 it was another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Go 1.16 and 1.17.
    Addresses,
    /// Go 1.18 and 1.19: addresses are relative to the text's beginning, in four bytes.
    Offsets,
    /// Since Go 1.20: of a function the line it begins in is known too.
    Lines,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    layout: Layout,
    quantum: u64,
    count: usize,
    text: u64,
    names: &'static [u8],
    units: &'static [u8],
    files: &'static [u8],
    values: &'static [u8],
    functions: &'static [u8],
}

impl Table {
    /// Of a file that a Go compiler made.
    pub(super) fn of(elf: &Elf) -> Option<Self> {
        let section = elf.section(".gopclntab").or_else(|| elf.section(".data.rel.ro.gopclntab"))?;
        let mut table = Self::parse(section.bytes)?;
        if table.layout != Layout::Addresses {
            table.text = table.text_of(elf, &section)?;
        }
        Some(table)
    }

    fn parse(bytes: &'static [u8]) -> Option<Self> {
        let layout = match u32::from_le_bytes(*bytes.first_chunk()?) {
            0xffff_fffa => Layout::Addresses,
            0xffff_fff0 => Layout::Offsets,
            0xffff_fff1 => Layout::Lines,
            _ => return None,
        };
        let (quantum, pointer) = (*bytes.get(6)?, *bytes.get(7)?);
        if bytes.get(4..6)? != [0, 0] || !matches!(quantum, 1 | 2 | 4) || pointer != 8 {
            return None;
        }
        let word = |index: usize| u64_at(bytes, 8 + 8 * index);
        // Behind the counts of functions and files; in the later layout with the text's beginning between.
        let first = match layout {
            Layout::Addresses => 2,
            Layout::Offsets | Layout::Lines => 3,
        };
        let part = |index: usize| bytes.get(usize::try_from(word(first + index)?).ok()?..);
        let table = Self {
            layout,
            quantum: u64::from(quantum),
            count: usize::try_from(word(0)?).ok()?,
            text: if layout == Layout::Addresses { 0 } else { word(2)? },
            names: part(0)?,
            units: part(1)?,
            files: part(2)?,
            values: part(3)?,
            functions: part(4)?,
        };
        // The entries and the end of the last.
        let size = table.count.checked_mul(2)?.checked_add(1)?.checked_mul(table.width())?;
        (table.count > 0 && size <= table.functions.len()).then_some(table)
    }

    /// Where the text begins: stated in the table, or by a relocation of that place, or where the linker has left it out, by the
    /// function that the program begins with. Of a program that begins with C and has neither nothing is known.
    fn text_of(&self, elf: &Elf, section: &Section) -> Option<u64> {
        /// Of the word in the table.
        const PLACE: u64 = 8 + 2 * 8;
        let stated = Some(self.text).filter(|text| *text != 0);
        let relocated = || elf.relocated(section.address.checked_add(PLACE)?).filter(|text| *text != 0);
        let entered = || {
            let first = (0..self.count).find(|index| {
                self.function(*index).is_some_and(|(_, function)| {
                    self.name(function).is_some_and(|name| name.starts_with(b"_rt0_"))
                })
            })?;
            elf.entry().checked_sub(self.entry(first)?)
        };
        stated.or_else(relocated).or_else(entered)
    }

    /// Whether an address is in one of its functions.
    pub(super) fn holds(&self, address: u64) -> bool {
        self.index(address).is_some()
    }

    /// The functions at an address, the innermost first. Which one was inlined there is known to the running program only, but
    /// that one was, and its line.
    pub(super) fn at(&self, address: u64) -> Vec<Function> {
        let found = self.index(address).and_then(|index| self.function(index));
        let Some((entry, function)) = found else { return Vec::new() };
        let file = |at| self.file(function, entry, at).map(|file| names::cut(&String::from_utf8_lossy(file)));
        let name = self.name(function).map(|name| names::cut(&String::from_utf8_lossy(name)));
        let line = self.field(function, 6).and_then(|table| self.value(table, entry, address));
        let line = line.and_then(|line| u32::try_from(line).ok()).filter(|line| *line != 0);
        if self.is_inlined(function, entry, address) {
            let inlined = Function { name: None, file: file(address), line, inlined: true };
            // A function begins with its own code.
            return vec![inlined, Function { name, file: file(entry), line: None, inlined: false }];
        }
        vec![Function { name, file: file(address), line, inlined: false }]
    }

    /// What an entry's fields are is the same in all layouts, behind the address or the offset.
    fn field(&self, function: &[u8], number: usize) -> Option<u32> {
        u32_at(function, self.width() + 4 * (number - 1))
    }

    fn file(&self, function: &[u8], entry: u64, address: u64) -> Option<&'static [u8]> {
        let number = usize::try_from(self.value(self.field(function, 5)?, entry, address)?).ok()?;
        let unit = usize::try_from(self.field(function, 8)?).ok()?;
        let name = u32_at(self.units, unit.checked_add(number)?.checked_mul(4)?)?;
        string(self.files, Some(name).filter(|name| *name != u32::MAX)?)
    }

    /// Whether an address is in code that was inlined, by the third of the tables that a function has beside those for every
    /// function. <https://github.com/golang/go/blob/go1.19/src/runtime/symtab.go> (`_PCDATA_InlTreeIndex`)
    fn is_inlined(&self, function: &[u8], entry: u64, address: u64) -> bool {
        const INLINED: usize = 2;
        let tables = self.width() + 8 * 4 + if self.layout == Layout::Lines { 4 } else { 0 } + 4;
        let has = self
            .field(function, 7)
            .is_some_and(|count| usize::try_from(count).is_ok_and(|count| count > INLINED));
        let table = has.then(|| u32_at(function, tables + 4 * INLINED)).flatten();
        table.and_then(|table| self.value(table, entry, address)).is_some_and(|index| index >= 0)
    }

    fn index(&self, address: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        if address < self.entry(0)? || address >= self.entry(self.count)? {
            return None;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.entry(middle)? <= address {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(low)
    }

    /// The bytes of an address in the list of functions.
    const fn width(&self) -> usize {
        match self.layout {
            Layout::Addresses => 8,
            Layout::Offsets | Layout::Lines => 4,
        }
    }

    fn entry(&self, index: usize) -> Option<u64> {
        let place = index.checked_mul(2 * self.width())?;
        match self.layout {
            Layout::Addresses => u64_at(self.functions, place),
            Layout::Offsets | Layout::Lines => self.text.checked_add(u32_at(self.functions, place)?.into()),
        }
    }

    fn function(&self, index: usize) -> Option<(u64, &'static [u8])> {
        let place = index.checked_mul(2 * self.width())?.checked_add(self.width())?;
        let offset = match self.layout {
            Layout::Addresses => usize::try_from(u64_at(self.functions, place)?).ok()?,
            Layout::Offsets | Layout::Lines => usize::try_from(u32_at(self.functions, place)?).ok()?,
        };
        Some((self.entry(index)?, self.functions.get(offset..)?))
    }

    fn name(&self, function: &[u8]) -> Option<&'static [u8]> {
        string(self.names, u32_at(function, self.width())?).filter(|name| !name.is_empty())
    }

    /// The value that a table of steps has for an address.
    fn value(&self, table: u32, entry: u64, address: u64) -> Option<i64> {
        let mut steps = self.values.get(usize::try_from(table).ok().filter(|table| *table != 0)?..)?;
        let (mut value, mut at) = (-1_i64, entry);
        for step in 0..STEPS {
            let difference = varint(&mut steps)?;
            if difference == 0 && step > 0 {
                return None;
            }
            let signed = i64::from(difference >> 1) ^ -i64::from(difference & 1);
            value = value.checked_add(signed)?;
            at = at.checked_add(u64::from(varint(&mut steps)?).checked_mul(self.quantum)?)?;
            if address < at {
                return Some(value);
            }
        }
        None
    }
}

fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    bytes.get(place..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], place: usize) -> Option<u64> {
    bytes.get(place..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// Up to its zero byte.
fn string(bytes: &'static [u8], place: u32) -> Option<&'static [u8]> {
    /// The longest that is looked for its end.
    const LONGEST: usize = 4096;
    let text = bytes.get(usize::try_from(place).ok()?..)?;
    let text = text.get(..LONGEST).unwrap_or(text);
    text.split(|byte| *byte == 0).next()
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in (0..35).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const LAYOUTS: [u32; 3] = [0xffff_fffa, 0xffff_fff0, 0xffff_fff1];
    pub(in super::super) const TEXT: u64 = 0x40_1000;

    /// A table of `main.main` at 0x10 and `main.leak` from 0x20 to 0x60 of the text, in which `b.go` is inlined from 0x30 to 0x40.
    pub(in super::super) fn table(magic: u32) -> Vec<u8> {
        let (addresses, lines) = (magic == LAYOUTS[0], magic == LAYOUTS[2]);
        let word = |number: u64| number.to_le_bytes().to_vec();
        let half = |number: u32| number.to_le_bytes().to_vec();
        let names = b"\0main.main\0main.leak\0".to_vec();
        let files = b"a.go\0b.go\0".to_vec();
        let units = [half(0), half(5)].concat();
        // A byte nobody refers to; lines of main; lines of leak; files of leak; what is inlined in leak; files of main.
        let steps = [
            &[0][..],
            &[22, 0x10, 0],
            &[42, 0x10, 20, 0x10, 13, 0x20, 0],
            &[2, 0x10, 2, 0x10, 1, 0x20, 0],
            &[0, 0x10, 2, 0x10, 1, 0x20, 0],
            &[2, 0x10, 0],
        ];
        let at = |index: usize| {
            u32::try_from(steps[..index].iter().map(|steps| steps.len()).sum::<usize>()).unwrap()
        };
        let function = |entry: u32, name: u32, files: u32, lines_at: u32, inlined: u32| {
            let entry = if addresses { word(TEXT + u64::from(entry)) } else { half(entry) };
            let fields = [name, 0, 0, 0, files, lines_at, 3, 0].map(u32::to_le_bytes).concat();
            let first_line = if lines { half(9) } else { vec![] };
            [entry, fields, first_line, half(0), half(0), half(0), half(inlined)].concat()
        };
        let functions = [function(0x10, 1, at(5), at(1), 0), function(0x20, 11, at(3), at(2), at(4))];
        let width = if addresses { 8 } else { 4 };
        let mut list = Vec::new();
        let mut offset = 5 * width;
        for (function, entry) in functions.iter().zip([0x10, 0x20]) {
            if addresses {
                list.extend([word(TEXT + entry), word(offset as u64)].concat());
            } else {
                list.extend(
                    [half(u32::try_from(entry).unwrap()), half(u32::try_from(offset).unwrap())].concat(),
                );
            }
            offset += function.len();
        }
        list.extend(if addresses { word(TEXT + 0x60) } else { half(0x60) });
        list.extend(functions.concat());
        let parts = [names, units, files, steps.concat(), list];
        let mut header = vec![word(2), word(2)];
        if !addresses {
            header.push(word(TEXT));
        }
        let mut offset = 8 + 8 * (header.len() + parts.len());
        for part in &parts {
            header.push(word(offset as u64));
            offset += part.len();
        }
        [half(magic), vec![0, 0, 1, 8], header.concat(), parts.concat()].concat()
    }

    pub(in super::super) fn names(bytes: &'static [u8], address: u64) -> Vec<Function> {
        Table::parse(bytes).map(|table| table.at(address)).unwrap_or_default()
    }

    #[test]
    fn functions_have_their_files_and_lines_in_each_layout() {
        for magic in LAYOUTS {
            let bytes: &'static [u8] = table(magic).leak();
            let at = |offset: u64| {
                let functions = names(bytes, TEXT + offset).into_iter();
                let shown = functions.map(|Function { name, file, line, inlined }| {
                    (name.unwrap_or_default(), file.unwrap_or_default(), line.unwrap_or(0), inlined)
                });
                shown.collect::<Vec<_>>()
            };
            let function =
                |name: &str, file: &str, line, inlined| (name.to_owned(), file.to_owned(), line, inlined);
            assert_eq!(at(0xf), []);
            assert_eq!(at(0x10), [function("main.main", "a.go", 10, false)], "{magic:x}");
            assert_eq!(at(0x20), [function("main.leak", "a.go", 20, false)], "{magic:x}");
            // Of what was inlined the line is known and not the name, of what is around it the name and not the line.
            let inlined = [function("", "b.go", 30, true), function("main.leak", "a.go", 0, false)];
            assert_eq!(at(0x35), inlined, "{magic:x}");
            assert_eq!(at(0x5f), [function("main.leak", "a.go", 23, false)], "{magic:x}");
            assert_eq!(at(0x60), []);
        }
    }
}
