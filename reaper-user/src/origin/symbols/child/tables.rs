//! The unwind tables of a file.

use framehop::{ExplicitModuleSectionInfo, Module};
use gimli::{
    BaseAddresses, DebugFrame, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, LittleEndian,
    Pointer, UnwindSection as _,
};

use super::{
    elf::{Elf, Section},
    rows::{self, Known, Row},
};

type Slice = EndianSlice<'static, LittleEndian>;
type Entry = FrameDescriptionEntry<Slice>;

/// Where the tables of a file are.
#[derive(Debug)]
pub(super) enum Tables {
    /// Sorted by address.
    Sorted { index: Section, frames: Section },
    /// One after another.
    Unsorted(Section),
    /// As debuggers have them.
    Debug(Section),
    /// There are none.
    None,
}

impl Tables {
    /// Of a file. Where `frame_pointers` are kept, as Go's compiler keeps them, what debuggers have is left alone: it is
    /// compressed and large.
    pub(super) fn of(elf: &Elf, frame_pointers: bool) -> Self {
        if let Some(tables) = sorted(elf) {
            return tables;
        }
        let filled = |name| elf.section(name).filter(|section| !section.bytes.is_empty());
        if let Some(section) = filled(".eh_frame") {
            return Self::Unsorted(section);
        }
        match filled(".debug_frame") {
            Some(section) if !frame_pointers => Self::Debug(section),
            _ => Self::None,
        }
    }

    /// Whether there are any.
    pub(super) const fn exist(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether they say how to leave the function at an address.
    pub(super) fn cover(&self, address: u64) -> bool {
        self.eh_entry(address).is_some() || self.debug_entry(address).is_some()
    }

    /// What they say about that. `read` has the stack.
    pub(super) fn row(&self, address: u64, known: Known, read: &dyn Fn(u64) -> Option<u64>) -> Row {
        if let Some((frames, bases, entry)) = self.eh_entry(address) {
            return rows::row(&frames, &bases, &entry, address, known, read);
        }
        match self.debug_entry(address) {
            Some((frames, entry)) => {
                rows::row(&frames, &BaseAddresses::default(), &entry, address, known, read)
            }
            None => Row::Strange,
        }
    }

    fn eh_entry(&self, address: u64) -> Option<(EhFrame<Slice>, BaseAddresses, Entry)> {
        match self {
            Self::Sorted { index, frames } => {
                let bases = bases(Some(index), frames);
                let header = EhFrameHdr::new(index.bytes, LittleEndian).parse(&bases, 8).ok()?;
                let entry = header.table()?.lookup(address, &bases).ok()?;
                // By ourselves: an index that leads to before the entries is no reason to end.
                let offset = usize::try_from(entry.direct().ok()?.checked_sub(frames.address)?).ok()?;
                let frames = eh_frame(frames);
                let entry = frames.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset).ok()?;
                entry.contains(address).then_some((frames, bases, entry))
            }
            Self::Unsorted(frames) => {
                let (bases, frames) = (bases(None, frames), eh_frame(frames));
                let entry = frames.fde_for_address(&bases, address, EhFrame::cie_from_offset).ok()?;
                Some((frames, bases, entry))
            }
            Self::Debug(_) | Self::None => None,
        }
    }

    fn debug_entry(&self, address: u64) -> Option<(DebugFrame<Slice>, Entry)> {
        let Self::Debug(frames) = self else { return None };
        let mut frames = DebugFrame::new(frames.bytes, LittleEndian);
        frames.set_address_size(8);
        let bases = BaseAddresses::default();
        let entry = frames.fde_for_address(&bases, address, DebugFrame::cie_from_offset).ok()?;
        Some((frames, entry))
    }

    /// As the unwinder wants them.
    pub(super) fn module(&self, elf: &Elf, start: u64, end: u64, bias: u64) -> Module<&'static [u8]> {
        let range = |section: &Section| section.address..section.address + section.bytes.len() as u64;
        let mut module = ExplicitModuleSectionInfo { base_svma: 0, ..ExplicitModuleSectionInfo::default() };
        // What text-relative and data-relative pointers are relative to.
        module.text_svma = elf.section(".text").as_ref().map(range);
        module.got_svma = elf.section(".got").as_ref().map(range);
        match self {
            Self::Sorted { index, frames } => {
                module.eh_frame_hdr_svma = Some(range(index));
                module.eh_frame_hdr = Some(index.bytes);
                module.eh_frame_svma = Some(range(frames));
                module.eh_frame = Some(frames.bytes);
            }
            Self::Unsorted(frames) => {
                module.eh_frame_svma = Some(range(frames));
                module.eh_frame = Some(frames.bytes);
            }
            Self::Debug(frames) => module.debug_frame = Some(frames.bytes),
            Self::None => {}
        }
        Module::new(String::new(), start..end, bias, module)
    }
}

/// The segment that a program finds its own tables by needs no sections.
fn sorted(elf: &Elf) -> Option<Tables> {
    let index = elf.eh_frame_hdr()?;
    let bases = bases(Some(&index), &Section::default());
    let header = EhFrameHdr::new(index.bytes, LittleEndian).parse(&bases, 8).ok()?;
    // Without a table in it the entries have to be gone through one by one. One of more rows than it has bytes is none.
    if header.table()?.iter(&bases).size_hint().0 > index.bytes.len() {
        return None;
    }
    let Pointer::Direct(address) = header.eh_frame_ptr() else { return None };
    let frames = Section { address, bytes: elf.bytes_at(address)? };
    Some(Tables::Sorted { index, frames })
}

fn bases(index: Option<&Section>, frames: &Section) -> BaseAddresses {
    let bases = BaseAddresses::default().set_eh_frame(frames.address);
    index.map_or_else(|| bases.clone(), |index| bases.clone().set_eh_frame_hdr(index.address))
}

fn eh_frame(frames: &Section) -> EhFrame<Slice> {
    let mut section = EhFrame::new(frames.bytes, LittleEndian);
    section.set_address_size(8);
    section
}
