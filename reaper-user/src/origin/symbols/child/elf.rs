//! What is needed of an ELF file: where its segments and sections are, its build id, its unwind tables.

use std::io::Read as _;

use flate2::read::ZlibDecoder;
use object::{
    LittleEndian,
    elf::{self, FileHeader64, ProgramHeader64, SectionHeader64},
    read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable, Sym as _},
};

/// Sections and segments of a file, more are an attempt to keep us busy.
const MOST: usize = 1 << 14;

/// Bytes of a build id. What linkers make has 20.
const BUILD_ID: usize = 64;

/// Bytes that a compressed section may have when it is not any more.
const INFLATED: usize = 256 << 20;

/// An ELF file of 64 bits and little endian.
#[derive(Debug)]
pub(super) struct Elf {
    /// The file.
    pub(super) bytes: &'static [u8],
    header: &'static FileHeader64<LittleEndian>,
    segments: &'static [ProgramHeader64<LittleEndian>],
    sections: SectionTable<'static, FileHeader64<LittleEndian>, &'static [u8]>,
}

/// A section or what stands for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// Its address as the file states it.
    pub(super) address: u64,
    /// Its bytes, not compressed.
    pub(super) bytes: &'static [u8],
}

impl Elf {
    /// `None` of anything else than an ELF file that can be mapped.
    pub(super) fn parse(bytes: &'static [u8]) -> Option<Self> {
        let header = FileHeader64::<LittleEndian>::parse(bytes).ok()?;
        if !header.is_little_endian() || !header.is_class_64() {
            return None;
        }
        let segments = header.program_headers(LittleEndian, bytes).ok().filter(|all| all.len() <= MOST)?;
        // A file can do without sections, and with nonsense in their place.
        let sections = header.sections(LittleEndian, bytes).ok();
        let sections = sections.filter(|all| all.len() <= MOST).unwrap_or_default();
        Some(Self { bytes, header, segments, sections })
    }

    /// Where execution begins.
    pub(super) fn entry(&self) -> u64 {
        self.header.e_entry.get(LittleEndian)
    }

    /// Its kind: an executable, a library, …
    pub(super) fn kind(&self) -> u16 {
        self.header.e_type.get(LittleEndian)
    }

    /// Where its code begins, as the kernel sees it (`mm_struct.start_code`).
    pub(super) fn code(&self) -> Option<u64> {
        self.loaded(elf::PF_X).map(|(address, ..)| address).min()
    }

    /// Where its first page is.
    pub(super) fn first(&self) -> Option<u64> {
        self.loaded(0).find(|(_, offset, _)| *offset == 0).map(|(address, ..)| address)
    }

    /// Shows names and addresses of the symbols in a table of this kind that have an address.
    pub(super) fn each_symbol(&self, kind: u32, mut visit: impl FnMut(&'static [u8], u64)) {
        let table = self.sections.symbols(LittleEndian, self.bytes, kind).unwrap_or_default();
        let strings = table.strings();
        for symbol in table.iter().take(SYMBOLS) {
            let address = symbol.st_value(LittleEndian);
            if address != 0
                && let Ok(name) = symbol.name(LittleEndian, strings)
            {
                visit(name, address);
            }
        }
    }

    /// Whether it has a dynamic entry with this tag whose text is `wanted`.
    pub(super) fn has_dynamic(&self, tag: i64, wanted: impl Fn(&[u8]) -> bool) -> bool {
        let Ok(Some((entries, link))) = self.sections.dynamic(LittleEndian, self.bytes) else { return false };
        let names = self.sections.section(link).and_then(|names| names.data(LittleEndian, self.bytes));
        let Ok(names) = names else { return false };
        entries.iter().filter(|entry| entry.d_tag.get(LittleEndian) == tag).any(|entry| {
            let at = usize::try_from(entry.d_val.get(LittleEndian)).ok();
            let text = at.and_then(|at| names.get(at..)?.split(|byte| *byte == 0).next());
            text.is_some_and(&wanted)
        })
    }

    /// What the address of an executable mapping is more than the address that the file states for it.
    pub(super) fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        // A mapping begins with a page, the segment in it may begin later; and the page may be mapped for its neighbour too.
        self.loaded(elf::PF_X).find_map(|(address, segment, length)| {
            let page = segment & !0xfff;
            let into =
                offset.checked_sub(page).filter(|into| *into < length.saturating_add(segment - page))?;
            let stated = (address & !0xfff).checked_add(into)?;
            Some(start.wrapping_sub(stated))
        })
    }

    /// The file's bytes from an address on, to the end of its segment.
    pub(super) fn bytes_at(&self, address: u64) -> Option<&'static [u8]> {
        self.loaded(0).find_map(|(start, offset, length)| {
            let into = address.checked_sub(start).filter(|into| *into < length)?;
            let from = usize::try_from(offset.checked_add(into)?).ok()?;
            let end = usize::try_from(offset.checked_add(length)?).ok()?;
            self.bytes.get(from..end.min(self.bytes.len()))
        })
    }

    /// The `N` bytes before an address, where there are as many.
    pub(super) fn bytes_before<const N: usize>(&self, address: u64) -> Option<&'static [u8; N]> {
        self.bytes_at(address.checked_sub(N as u64)?)?.first_chunk()
    }

    /// Address, offset and length of the segments that are mapped with these rights at least.
    fn loaded(&self, rights: u32) -> impl Iterator<Item = (u64, u64, u64)> {
        let is_loaded = move |segment: &&ProgramHeader64<LittleEndian>| {
            segment.p_type(LittleEndian) == elf::PT_LOAD && segment.p_flags(LittleEndian) & rights == rights
        };
        self.segments.iter().filter(is_loaded).map(|segment| {
            let number = |field: object::U64<LittleEndian>| field.get(LittleEndian);
            (number(segment.p_vaddr), number(segment.p_offset), number(segment.p_filesz))
        })
    }

    /// Whether there is such a section.
    pub(super) fn has(&self, name: &str) -> bool {
        self.sections.section_by_name(LittleEndian, name.as_bytes()).is_some()
    }

    /// A section by its name. One of debug information is inflated where it is compressed, and not freed: to be asked for once.
    pub(super) fn section(&self, name: &str) -> Option<Section> {
        let (_, header) = self.sections.section_by_name(LittleEndian, name.as_bytes())?;
        let bytes = if name.starts_with(".debug_") {
            self.content(header)?
        } else {
            header.data(LittleEndian, self.bytes).ok()?
        };
        Some(Section { address: header.sh_addr.get(LittleEndian), bytes })
    }

    fn content(&self, header: &SectionHeader64<LittleEndian>) -> Option<&'static [u8]> {
        let Some((compression, offset, size)) = header.compression(LittleEndian, self.bytes).ok()? else {
            return header.data(LittleEndian, self.bytes).ok();
        };
        let from = usize::try_from(offset).ok()?;
        let deflated = self.bytes.get(from..from.checked_add(usize::try_from(size).ok()?)?)?;
        let inflated = usize::try_from(compression.ch_size.get(LittleEndian)).ok()?;
        if compression.ch_type.get(LittleEndian) != elf::ELFCOMPRESS_ZLIB || inflated > INFLATED {
            return None;
        }
        let mut bytes = Vec::new();
        let stated = compression.ch_size.get(LittleEndian);
        ZlibDecoder::new(deflated).take(stated).read_to_end(&mut bytes).ok()?;
        (bytes.len() == inflated).then(|| &*bytes.leak())
    }

    /// The symbols of functions: of the whole file, or where those are gone the dynamic ones.
    pub(super) fn functions(&self) -> Vec<(u64, u64, &'static [u8])> {
        let of = |kind| {
            let table = self.sections.symbols(LittleEndian, self.bytes, kind).unwrap_or_default();
            let strings = table.strings();
            let functions = table.iter().filter_map(|symbol| {
                let is_code = match symbol.st_type() {
                    elf::STT_FUNC | elf::STT_GNU_IFUNC => symbol.st_shndx(LittleEndian) != elf::SHN_UNDEF,
                    // What was written in assembler, and much that is no code.
                    elf::STT_NOTYPE => self.is_executable(symbol.st_shndx(LittleEndian)),
                    _ => false,
                };
                let name = is_code.then(|| symbol.name(LittleEndian, strings).ok())??;
                // Marks of code and data in ARM's files, and of nothing.
                let is_named = !name.is_empty() && name[0] != b'$';
                is_named.then(|| (symbol.st_value(LittleEndian), symbol.st_size(LittleEndian), name))
            });
            functions.take(SYMBOLS).collect::<Vec<_>>()
        };
        let all = of(elf::SHT_SYMTAB);
        if all.is_empty() { of(elf::SHT_DYNSYM) } else { all }
    }

    fn is_executable(&self, section: u16) -> bool {
        let section = self.sections.section(object::SectionIndex(section.into()));
        section.is_ok_and(|section| section.sh_flags(LittleEndian) & u64::from(elf::SHF_EXECINSTR) != 0)
    }

    /// The addends of relative relocations, by where they go: in a file that is linked to any address, the words of data that
    /// are addresses are there and not in their places.
    pub(super) fn relocated(&self, address: u64) -> Option<u64> {
        let words = self.section(".rela.dyn")?.bytes.as_chunks::<24>().0;
        let word = |entry: &[u8; 24], at: usize| {
            entry.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        words.iter().find(|entry| word(entry, 0) == address).map(|entry| word(entry, 16))
    }

    /// The build id in hexadecimal digits.
    pub(super) fn build_id(&self) -> Option<String> {
        let notes =
            self.segments.iter().filter_map(|segment| segment.notes(LittleEndian, self.bytes).ok()?);
        for mut notes in notes {
            let mut left = MOST;
            while let Ok(Some(note)) = notes.next() {
                if note.name() == elf::ELF_NOTE_GNU && note.n_type(LittleEndian) == elf::NT_GNU_BUILD_ID {
                    let id = note.desc();
                    return (1..=BUILD_ID).contains(&id.len()).then(|| hex(id));
                }
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        None
    }

    /// The table of unwind tables, by the segment that a loader finds it by.
    pub(super) fn eh_frame_hdr(&self) -> Option<Section> {
        let segment =
            self.segments.iter().find(|segment| segment.p_type(LittleEndian) == elf::PT_GNU_EH_FRAME)?;
        let bytes = segment.data(LittleEndian, self.bytes).ok()?;
        Some(Section { address: segment.p_vaddr.get(LittleEndian), bytes })
    }
}

/// Symbols of a file that are kept. A browser has a million.
const SYMBOLS: usize = 4 << 20;

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
