//! What an executable or a library has of CPython: its state's symbol, its version, or that it is linked to a library that has
//! them. The file is somebody else's: nothing of it is read that is unreasonably large.

use std::{
    fs::File,
    io::{self, BufReader, Seek as _, SeekFrom},
};

use object::{
    Endianness,
    elf::{DT_NEEDED, ET_DYN, ET_EXEC, FileHeader64, PF_X, PT_LOAD, SHT_DYNAMIC, SHT_DYNSYM, SHT_SYMTAB},
    read::{
        ReadCache, ReadRef,
        elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable, Sym as _},
    },
};

/// A table of symbols, or of their names, that is larger is not read.
const TABLE: u64 = 32 << 20;
/// Headers of sections or of segments that are looked at.
const HEADERS: usize = 4_096;

/// What was found in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elf {
    /// Nothing.
    Other,
    /// It is linked to libpython.
    Linked,
    /// It has the interpreter.
    Interpreter(Interpreter),
}

/// An interpreter in a file. Addresses are as the file says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// `_PyRuntime`; in 3.6 `interp_head`.
    pub(super) symbol: u64,
    /// Its minor version up to 3.12; `None` for one that says it itself.
    pub(super) minor: Option<u32>,
    /// Where its code begins, as the kernel sees it (`mm_struct.start_code`).
    pub(super) code: u64,
    /// Where the file's first page is.
    pub(super) first: u64,
}

/// What each version brought that extension modules use, so that it is in every build's table.
const BROUGHT: [(&[u8], Option<u32>); 6] = [
    (b"PyDict_GetItemRef", None),
    (b"PyErr_GetRaisedException", Some(12)),
    (b"Py_Version", Some(11)),
    (b"PyModule_AddObjectRef", Some(10)),
    (b"PyModule_AddType", Some(9)),
    (b"PyConfig_Read", Some(8)),
];

type Header = FileHeader64<Endianness>;

/// Looks at a file. An error where it cannot be read; what is no ELF file for this machine, or not a well-formed one, is
/// something else.
pub(super) fn look(mut file: File) -> io::Result<Elf> {
    // An error of reading shows here.
    file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let cache = ReadCache::new(BufReader::new(file));
    Ok(find(&cache).unwrap_or(Elf::Other))
}

/// `None` where something is not as it should be.
fn find<'a>(data: impl ReadRef<'a>) -> Option<Elf> {
    let header = Header::parse(data).ok()?;
    let endian = header.endian().ok()?;
    // Zero: there are so many that they are counted elsewhere.
    let headers = usize::from(header.e_shnum(endian));
    if !matches!(header.e_type(endian), ET_EXEC | ET_DYN) || !(1..=HEADERS).contains(&headers) {
        return None;
    }
    let sections = header.sections(endian, data).ok()?;
    let dynamic = symbols(&sections, endian, data, SHT_DYNSYM);
    let names: Vec<(&[u8], u64)> = dynamic.unwrap_or_default();
    let address = |names: &[(&[u8], u64)], wanted: &[u8]| {
        names.iter().find(|(name, address)| *name == wanted && *address != 0).map(|(_, address)| *address)
    };
    let (symbol, minor) = match address(&names, b"_PyRuntime") {
        Some(symbol) => {
            let brought = BROUGHT.iter().find(|(name, _)| address(&names, name).is_some());
            (symbol, brought.map_or(Some(7), |(_, minor)| *minor))
        }
        None if address(&names, b"Py_Initialize").is_some() => {
            // Before 3.7 it has a name only in the table that may be stripped.
            let all = symbols(&sections, endian, data, SHT_SYMTAB).unwrap_or_default();
            (address(&all, b"interp_head")?, Some(6))
        }
        None => return Some(if needs_libpython(&sections, endian, data) { Elf::Linked } else { Elf::Other }),
    };
    let segments = header.program_headers(endian, data).ok()?.iter().take(HEADERS);
    let loaded: Vec<_> = segments.filter(|segment| segment.p_type(endian) == PT_LOAD).collect();
    let first = loaded.iter().find(|segment| segment.p_offset(endian) == 0)?.p_vaddr(endian);
    let executable = loaded.iter().filter(|segment| segment.p_flags(endian) & PF_X != 0);
    let code = executable.map(|segment| segment.p_vaddr(endian)).min()?;
    Some(Elf::Interpreter(Interpreter { symbol, minor, code, first }))
}

/// Names and addresses of a table of symbols.
fn symbols<'a, R: ReadRef<'a>>(
    sections: &SectionTable<'a, Header, R>,
    endian: Endianness,
    data: R,
    kind: u32,
) -> Option<Vec<(&'a [u8], u64)>> {
    let section = sections.iter().find(|section| section.sh_type(endian) == kind)?;
    let names = sections.section(section.link(endian)).ok()?;
    if section.sh_size(endian) > TABLE || names.sh_size(endian) > TABLE {
        return None;
    }
    let symbols: &[object::elf::Sym64<Endianness>] = section.data_as_array(endian, data).ok()?;
    let names = names.data(endian, data).ok()?;
    let text = |at: u32| names.get(at as usize..)?.split(|byte| *byte == 0).next();
    Some(
        symbols
            .iter()
            .filter_map(|symbol| Some((text(symbol.st_name(endian))?, symbol.st_value(endian))))
            .collect(),
    )
}

fn needs_libpython<'a, R: ReadRef<'a>>(
    sections: &SectionTable<'a, Header, R>,
    endian: Endianness,
    data: R,
) -> bool {
    let dynamic = sections.iter().find(|section| section.sh_type(endian) == SHT_DYNAMIC);
    if dynamic.is_none_or(|section| section.sh_size(endian) > TABLE) {
        return false;
    }
    let Ok(Some((entries, link))) = sections.dynamic(endian, data) else { return false };
    let Ok(names) = sections.section(link) else { return false };
    if names.sh_size(endian) > TABLE {
        return false;
    }
    let Ok(names) = names.data(endian, data) else { return false };
    let needed = entries.iter().filter(|entry| entry.d_tag(endian) == DT_NEEDED);
    let mut names = needed.filter_map(|entry| names.get(usize::try_from(entry.d_val(endian)).ok()?..));
    names.any(|name| name.starts_with(b"libpython3"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found(path: &str) -> Elf {
        look(
            File::open(path)
                .unwrap_or_else(|error| panic!("{path}: {error}: `cargo xtask setup` installs it")),
        )
        .unwrap()
    }

    #[test]
    fn debians_interpreter_is_one_and_a_shell_is_none() {
        let Elf::Interpreter(python) = found("/usr/bin/python3") else { panic!("not found") };
        assert!(python.symbol > python.code && python.code > python.first);
        let version = std::fs::read_link("/usr/bin/python3").unwrap();
        let minor: u32 = version.to_str().unwrap().rsplit('.').next().unwrap().parse().unwrap();
        assert_eq!(python.minor, (minor <= 12).then_some(minor));
        assert_eq!(found("/bin/sh"), Elf::Other);
    }

    #[test]
    fn every_interpreter_of_a_developer_has_the_version_of_its_directory() {
        let home = std::env::var_os("HOME").unwrap_or_default();
        let versions = std::fs::read_dir(Path::new(&home).join(".pyenv/versions"));
        for version in versions.into_iter().flatten().flatten() {
            let name = version.file_name().into_string().unwrap();
            let Some(minor) = name.strip_prefix("3.").and_then(|rest| rest.split('.').next()) else {
                continue;
            };
            let minor: u32 = minor.parse().unwrap();
            let mut file = look(File::open(version.path().join("bin/python3")).unwrap()).unwrap();
            if file == Elf::Linked {
                let folder = std::fs::read_dir(version.path().join("lib")).unwrap().flatten();
                let library = folder.map(|entry| entry.path()).find(|path| {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    name.starts_with("libpython3.") && name.contains(".so.")
                });
                file = look(File::open(library.unwrap()).unwrap()).unwrap();
            }
            let Elf::Interpreter(found) = file else { panic!("{name}: {file:?}") };
            assert_eq!(found.minor, (minor <= 12).then_some(minor), "{name}");
        }
    }

    #[test]
    fn what_is_no_elf_file_is_something_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(look(file.reopen().unwrap()).unwrap(), Elf::Other);
        std::fs::write(file.path(), b"#!/usr/bin/python3\n").unwrap();
        assert_eq!(look(file.reopen().unwrap()).unwrap(), Elf::Other);
    }

    #[test]
    fn a_damaged_file_is_looked_at_to_its_end() {
        let whole = std::fs::read("/usr/bin/python3").unwrap();
        let mut state = 1_u64;
        // Its headers and tables are at its ends.
        for round in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..40 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = usize::try_from(state % 8_192).unwrap();
                let at = if round % 2 == 0 { at } else { bytes.len() - 1 - at };
                bytes[at] = state.to_le_bytes()[7];
            }
            bytes.truncate(bytes.len() - usize::try_from(state % 65_536).unwrap() * (round % 3));
            let _whatever = find(bytes.as_slice());
        }
    }
}
