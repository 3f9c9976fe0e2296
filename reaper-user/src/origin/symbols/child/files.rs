//! The files that were handed over, parsed once.

use std::{cell::OnceCell, collections::HashMap, os::fd::OwnedFd, rc::Rc};

use super::{dwarf::Lines, elf::Elf, go::Table, mapped, symbols::Symbols, tables::Tables};

/// Files that are held. More, and this process ends and another begins.
const FILES: usize = 512;

/// A file, and what has been read of it so far.
pub(super) struct Module {
    /// The file.
    pub(super) elf: Elf,
    /// Its build id.
    pub(super) build_id: Option<String>,
    tables: OnceCell<Tables>,
    go: OnceCell<Option<Table>>,
    symbols: OnceCell<Symbols>,
    lines: OnceCell<Option<Lines>>,
}

impl Module {
    pub(super) fn parse(bytes: &'static [u8]) -> Option<Self> {
        let elf = Elf::parse(bytes)?;
        let build_id = elf.build_id();
        let (tables, go) = (OnceCell::new(), OnceCell::new());
        Some(Self { elf, build_id, tables, go, symbols: OnceCell::new(), lines: OnceCell::new() })
    }

    /// Its unwind tables.
    pub(super) fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| Tables::of(&self.elf, self.go().is_some()))
    }

    /// Its functions by name.
    pub(super) fn symbols(&self) -> &Symbols {
        self.symbols.get_or_init(|| Symbols::of(&self.elf))
    }

    /// Its debug information.
    pub(super) fn lines(&self) -> Option<&Lines> {
        self.lines.get_or_init(|| Lines::of(&self.elf)).as_ref()
    }

    /// What Go's runtime knows of its functions.
    pub(super) fn go(&self) -> Option<&Table> {
        self.go.get_or_init(|| Table::of(&self.elf)).as_ref()
    }

    /// Whether the code there is Go's, whose compiler always keeps frame pointers.
    pub(super) fn keeps_frame_pointers(&self, address: u64) -> bool {
        self.go().is_some_and(|table| table.holds(address))
    }
}

/// The files.
#[derive(Default)]
pub(super) struct Files {
    known: HashMap<mapped::FileKey, Option<Rc<Module>>>,
}

impl Files {
    /// Of each descriptor its file; `None` where it is none that can be used.
    pub(super) fn of(&mut self, descriptors: &[OwnedFd]) -> Vec<Option<Rc<Module>>> {
        descriptors
            .iter()
            .map(|file| {
                let key = mapped::key(file).ok()?;
                let parse = || mapped::bytes(file, &key).ok().and_then(Module::parse).map(Rc::new);
                self.known.entry(key).or_insert_with(parse).clone()
            })
            .collect()
    }

    /// Whether so many are held that this process should make room for another.
    pub(super) fn are_many(&self) -> bool {
        self.known.len() > FILES
    }
}
