//! The instructions in a holder's own code by which it is made to call the kernel. They are there already: nothing is ever
//! added to a program. Where they are is looked for once for each file, and their bytes are looked at again at each use.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{
    arch::{ALIGNED, CALL_AND_RETURN, IN_VDSO, POP_FIRST, POP_NUMBER, SIGRETURNS},
    ptrace,
};
use crate::proc::{
    Proc,
    maps::{Mapping, mappings},
};

/// Bytes of code that are read of one holder. The largest programs have 200 MiB of it, and what is needed is in their libc.
const MOST_BYTES: u64 = 256 << 20;

/// And for how long.
const MOST_TIME: Duration = Duration::from_secs(1);

/// Bytes read at once, and how much of the end of one piece is read again with the next.
const PIECE: usize = 1 << 20;
const OVERLAP: usize = 16;

/// Files that are remembered.
const FILES: usize = 1_024;

/// Where the instructions are, as addresses in one holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// `syscall; ret`.
    pub call: Option<u64>,
    /// What signal handlers return to.
    pub sigreturn: Option<u64>,
    /// Takes the first argument of a call off the stack.
    pub pop_first: Option<u64>,
    /// Takes its number off the stack.
    pub pop_number: Option<u64>,
}

/// What is known of files, by device and inode: offsets into them.
#[derive(Debug, Default)]
pub struct Cache {
    files: HashMap<(u64, u64, u64), Code>,
}

impl Code {
    const fn is_whole(&self) -> bool {
        self.call.is_some()
            && self.sigreturn.is_some()
            && (POP_FIRST.is_none() || self.pop_first.is_some())
            && (POP_NUMBER.is_none() || self.pop_number.is_some())
    }

    /// What is in the one or the other.
    const fn or(self, other: Self) -> Self {
        const fn either(one: Option<u64>, other: Option<u64>) -> Option<u64> {
            match one {
                Some(_) => one,
                None => other,
            }
        }
        Self {
            call: either(self.call, other.call),
            sigreturn: either(self.sigreturn, other.sigreturn),
            pop_first: either(self.pop_first, other.pop_first),
            pop_number: either(self.pop_number, other.pop_number),
        }
    }

    fn moved(self, by: impl Fn(u64) -> u64) -> Self {
        let Self { call, sigreturn, pop_first, pop_number } = self;
        Self {
            call: call.map(&by),
            sigreturn: sigreturn.map(&by),
            pop_first: pop_first.map(&by),
            pop_number: pop_number.map(&by),
        }
    }

    /// Each address with the bytes that must be there.
    pub fn wanted(&self) -> impl Iterator<Item = (u64, Vec<&'static [u8]>)> {
        let Self { call, sigreturn, pop_first, pop_number } = *self;
        [
            (call, vec![CALL_AND_RETURN]),
            (sigreturn, SIGRETURNS.to_vec()),
            (pop_first, POP_FIRST.into_iter().collect()),
            (pop_number, POP_NUMBER.into_iter().collect()),
        ]
        .into_iter()
        .filter_map(|(address, bytes)| Some((address?, bytes)))
    }

    /// What is in a piece of code, as offsets into it.
    fn within(bytes: &[u8]) -> Self {
        let find = |wanted: &[u8]| {
            let mut windows = bytes.windows(wanted.len()).step_by(ALIGNED);
            u64::try_from(windows.position(|window| window == wanted)? * ALIGNED).ok()
        };
        Self {
            call: find(CALL_AND_RETURN),
            sigreturn: SIGRETURNS.iter().find_map(|wanted| find(wanted)),
            pop_first: POP_FIRST.and_then(find),
            pop_number: POP_NUMBER.and_then(find),
        }
    }
}

impl Cache {
    /// Looks for them in a holder's code: in what the kernel maps, where they are in that; in its libc, then in its program, then in the rest.
    ///
    /// An error is the kernel's refusal to let it be read at all.
    pub fn find(&mut self, proc: &Proc, pid: u32) -> Result<Code, Errno> {
        let living = proc.of_living(pid);
        // The directory of a thread is called by its number.
        let tid = living.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(pid);
        let is_vdso = |mapping: &Mapping| IN_VDSO && mapping.path == "[vdso]";
        let mut maps: Vec<_> = mappings(&living).into_iter().collect();
        maps.retain(|mapping| mapping.is_code() || is_vdso(mapping));
        let program = fs::read_link(living.join("exe")).unwrap_or_default();
        maps.sort_by_key(|mapping| {
            if is_vdso(mapping) || mapping.is_libc() {
                u8::from(!is_vdso(mapping))
            } else {
                2 + u8::from(*mapping.path != *program.as_os_str())
            }
        });
        let (began, mut read, mut code) = (Instant::now(), 0, Code::default());
        for mapping in maps {
            read += mapping.end - mapping.start;
            if code.is_whole() || read > MOST_BYTES || began.elapsed() > MOST_TIME {
                break;
            }
            let key = (mapping.device, mapping.inode, mapping.offset);
            let known = self.files.get(&key).copied();
            let searched = known.map_or_else(|| search(tid, &mapping), Ok);
            // What could not be read says nothing of the file.
            let found = match searched {
                Ok(found) => found,
                Err(error @ (Errno::PERM | Errno::ACCESS)) => return Err(error),
                Err(_) => continue,
            };
            // What the kernel maps is of no file.
            if known.is_none() && mapping.inode != 0 {
                if self.files.len() >= FILES {
                    self.files.clear();
                }
                self.files.insert(key, found);
            }
            code = code.or(found.moved(|offset| mapping.start + offset));
        }
        Ok(code)
    }
}

/// What is in one mapping, as offsets into it.
fn search(tid: u32, mapping: &Mapping) -> Result<Code, Errno> {
    let mut code = Code::default();
    let mut at = mapping.start;
    while at < mapping.end && !code.is_whole() {
        let left = usize::try_from(mapping.end - at).unwrap_or(PIECE);
        let mut piece = vec![0; left.min(PIECE)];
        ptrace::read(tid, at, &mut piece)?;
        let from = at - mapping.start;
        code = code.or(Code::within(&piece).moved(|offset| from + offset));
        if left <= PIECE {
            break;
        }
        at += (PIECE - OVERLAP) as u64;
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn instructions_are_found_at_any_alignment_and_across_pieces() {
        let mut bytes = vec![0x90; 64];
        bytes[3..5].copy_from_slice(POP_FIRST.unwrap());
        bytes[7..9].copy_from_slice(POP_NUMBER.unwrap());
        bytes[17..20].copy_from_slice(CALL_AND_RETURN);
        bytes[40..47].copy_from_slice(SIGRETURNS[1]);
        let found = Code::within(&bytes);
        let wanted = Code { call: Some(17), sigreturn: Some(40), pop_first: Some(3), pop_number: Some(7) };
        assert_eq!(found, wanted);
        assert_eq!(Code::within(&bytes[..17]).call, None);
        assert_eq!(found.or(Code { call: Some(1), ..Code::default() }), wanted, "the first one found stays");
    }

    /// This very process: its libc has them all, and the bytes are where they are said to be.
    #[test]
    fn a_process_with_a_libc_has_them_all() {
        let code = Cache::default().find(&Proc::at("/proc"), std::process::id()).unwrap();
        assert!(code.is_whole(), "{code:?}");
        for (address, wanted) in code.wanted() {
            let fits = wanted.iter().any(|bytes| {
                let mut there = vec![0; bytes.len()];
                ptrace::read(std::process::id(), address, &mut there).unwrap();
                there == *bytes
            });
            assert!(fits, "{address:#x}");
        }
    }
}
