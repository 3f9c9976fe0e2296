//! What an executable or a library has of CPython: its state's symbol, its version, or that it is linked to a library that has
//! them.

use object::elf::{DT_NEEDED, ET_DYN, ET_EXEC, SHT_DYNSYM, SHT_SYMTAB};

use super::elf::Elf;
use crate::origin::symbols::message::{Cpython, Interpreter, OFFSETS, Version};

/// What each version brought that extension modules use, so that it is in every build's table.
const BROUGHT: [(&[u8], Option<u32>); 6] = [
    (b"PyDict_GetItemRef", None),
    (b"PyErr_GetRaisedException", Some(12)),
    (b"Py_Version", Some(11)),
    (b"PyModule_AddObjectRef", Some(10)),
    (b"PyModule_AddType", Some(9)),
    (b"PyConfig_Read", Some(8)),
];

/// Looks at a file.
pub(super) fn find(elf: &Elf) -> Cpython {
    if !matches!(elf.kind(), ET_EXEC | ET_DYN) {
        return Cpython::Other;
    }
    let mut state = None;
    let mut minor = None;
    let mut initializes = false;
    elf.each_symbol(SHT_DYNSYM, |name, address| {
        match name {
            b"_PyRuntime" => state = Some(address),
            b"Py_Initialize" => initializes = true,
            _ => {}
        }
        if let Some(brought) = BROUGHT.iter().position(|(known, _)| *known == name) {
            minor = Some(minor.map_or(brought, |newest: usize| newest.min(brought)));
        }
    });
    let minor = minor.and_then(|brought| BROUGHT.get(brought)).map_or(Some(7), |(_, minor)| *minor);
    let (symbol, minor) = match state {
        Some(symbol) => (Some(symbol), minor),
        None if initializes => {
            // Before 3.7 it has a name only in the table that may be stripped.
            let mut head = None;
            elf.each_symbol(SHT_SYMTAB, |name, address| {
                if name == b"interp_head" {
                    head = Some(address);
                }
            });
            (head, Some(6))
        }
        None => {
            let linked = elf.has_dynamic(DT_NEEDED, |name| name.starts_with(b"libpython3"));
            return if linked { Cpython::Linked } else { Cpython::Other };
        }
    };
    let found = || {
        let symbol = symbol?;
        let version = minor.map_or_else(|| offsets(elf, symbol), |minor| Some(Version::Minor(minor)))?;
        Some(Interpreter { symbol, version, code: elf.code()?, first: elf.first()? })
    };
    found().map_or(Cpython::Other, Cpython::Interpreter)
}

/// What it says of itself, as the file has it: a process can write what it likes over its own copy, and others run the same file.
fn offsets(elf: &Elf, symbol: u64) -> Option<Version> {
    let words = elf.bytes_at(symbol)?.as_chunks::<8>().0.get(..OFFSETS)?;
    Some(Version::Offsets(words.iter().map(|word| u64::from_le_bytes(*word)).collect()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn found(path: &Path) -> Cpython {
        let bytes = fs::read(path);
        let bytes = bytes
            .unwrap_or_else(|error| panic!("{}: {error}: `cargo xtask setup` installs it", path.display()));
        Elf::parse(bytes.leak()).map_or(Cpython::Other, |elf| find(&elf))
    }

    /// Whether it is of that version. What one says of itself begins with a word that is no offset, and its version.
    fn is(found: &Interpreter, minor: u32) -> bool {
        match &found.version {
            Version::Minor(found) => *found == minor && minor <= 12,
            Version::Offsets(words) => {
                words[0] == u64::from_le_bytes(*b"xdebugpy") && words[1] >> 16 == u64::from(0x0300 + minor)
            }
        }
    }

    #[test]
    fn debians_interpreter_is_one_and_a_shell_is_none() {
        let path = Path::new("/usr/bin/python3");
        let Cpython::Interpreter(python) = found(path) else { panic!("not found") };
        assert!(python.symbol > python.code && python.code > python.first);
        let version = fs::read_link(path).unwrap();
        let minor: u32 = version.to_str().unwrap().rsplit('.').next().unwrap().parse().unwrap();
        assert!(is(&python, minor), "{python:?}");
        assert_eq!(found(Path::new("/bin/sh")), Cpython::Other);
    }

    #[test]
    fn every_interpreter_of_a_developer_has_the_version_of_its_directory() {
        let home = std::env::var_os("HOME").unwrap_or_default();
        let versions = fs::read_dir(Path::new(&home).join(".pyenv/versions"));
        for version in versions.into_iter().flatten().flatten() {
            let name = version.file_name().into_string().unwrap();
            let Some(minor) = name.strip_prefix("3.").and_then(|rest| rest.split('.').next()) else {
                continue;
            };
            let minor: u32 = minor.parse().unwrap();
            let mut file = found(&version.path().join("bin/python3"));
            if file == Cpython::Linked {
                let folder = fs::read_dir(version.path().join("lib")).unwrap().flatten();
                let library = folder.map(|entry| entry.path()).find(|path| {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    name.starts_with("libpython3.") && name.contains(".so.")
                });
                file = found(&library.unwrap());
            }
            let Cpython::Interpreter(found) = file else { panic!("{name}: {file:?}") };
            assert!(is(&found, minor), "{name}: {found:?}");
        }
    }
}
