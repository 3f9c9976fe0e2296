//! A file's functions and lines by its debug information.

use addr2line::Context;
use gimli::{Dwarf, EndianSlice, LittleEndian};

use super::{elf::Elf, names};
use crate::origin::symbols::message::{Function, INLINED};

type Bytes = EndianSlice<'static, LittleEndian>;

/// Debug information.
pub(super) struct Lines {
    context: Context<Bytes>,
}

impl Lines {
    /// Of a file that has some.
    pub(super) fn of(elf: &Elf) -> Option<Self> {
        if !elf.has(".debug_info") {
            return None;
        }
        let load = |id: gimli::SectionId| {
            let section = elf.section(id.name()).unwrap_or_default();
            Ok::<_, gimli::Error>(EndianSlice::new(section.bytes, LittleEndian))
        };
        let dwarf = Dwarf::load(load).ok()?;
        Some(Self { context: Context::from_dwarf(dwarf).ok()? })
    }

    /// The functions at an address, the innermost first.
    pub(super) fn at(&self, address: u64) -> Vec<Function> {
        let mut functions = Vec::new();
        // What is split off into other files is not looked for.
        let Ok(mut frames) = self.context.find_frames(address).skip_all_loads() else { return functions };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().map(|function| names::demangled(function.name.slice()));
            let location = frame.location.as_ref();
            functions.push(Function {
                name,
                file: location.and_then(|location| location.file).map(names::cut),
                line: location.and_then(|location| location.line).filter(|line| *line != 0),
                inlined: true,
            });
            if functions.len() == INLINED {
                break;
            }
        }
        if let Some(outermost) = functions.last_mut() {
            outermost.inlined = false;
        }
        functions
    }
}
