//! What an address of a process is in.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::ptrace;
use crate::proc::maps::{Mapping, mappings};

/// What an address is in, asked again and again.
#[derive(Debug)]
pub struct Maps {
    directory: PathBuf,
    file: File,
    /// The latest answers; the whole text where the kernel cannot be asked for one address.
    known: Vec<Mapping>,
    whole: bool,
}

impl Maps {
    /// Of a process or thread, by its directory in /proc.
    #[must_use]
    pub fn open(directory: &Path) -> Option<Self> {
        let file = File::open(directory.join("maps")).ok()?;
        Some(Self { directory: directory.to_owned(), file, known: Vec::new(), whole: false })
    }

    /// The mapping that an address is in, as it was when the first address in it was asked for. Of its name and file nothing is
    /// known.
    pub fn at(&mut self, address: u64) -> Option<&Mapping> {
        let holds = |mapping: &Mapping| (mapping.start..mapping.end).contains(&address);
        if !self.whole && !self.known.iter().any(holds) {
            match ptrace::mapping_at(&self.file, address) {
                Ok((start, end, rights)) => self.known.push(Mapping::plain(start, end, rights)),
                Err(Errno::NOENT) => return None,
                // Linux before 6.11.
                Err(_) => {
                    self.known = mappings(&self.directory);
                    self.whole = true;
                }
            }
        }
        self.known.iter().find(|mapping| holds(mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_told_as_the_whole_text_tells_it() {
        let own = Path::new("/proc/self");
        let mut maps = Maps::open(own).unwrap();
        for mapping in mappings(own).iter().filter(|mapping| mapping.is_code() || mapping.is_stack()) {
            let told = maps.at(mapping.start).unwrap();
            assert_eq!((told.start, told.rights), (mapping.start, mapping.rights), "{mapping:?}");
        }
        assert_eq!(maps.at(16), None);
    }
}
