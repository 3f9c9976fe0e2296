//! Puts this kernel's offsets into the object's instructions, in the place of the members' numbers.
//!
//! rustc writes no relocations that a loader could do this by. What goes wrong here does not get far: the verifier
//! refuses an instruction that reads no member of its type and size, and the daemon checks what it reads of itself.

use std::ops::Range;

use object::{Object as _, ObjectSection as _, SectionKind};
use reaper_ebpf::member::{FIRST, NAMES, STEP};
use thiserror::Error;

/// Why an object cannot be fitted to this kernel.
#[derive(Debug, Error)]
pub enum PatchError {
    /// It is no ELF file.
    #[error("the BPF object cannot be read: {0}")]
    Object(#[from] object::Error),
    /// A member lies too far into its structure for an instruction.
    #[error("this kernel has {member} at offset {offset}, more than an instruction can reach")]
    TooFar {
        /// Its name.
        member: &'static str,
        /// Where it lies.
        offset: u32,
    },
    /// An instruction has a number that no member has.
    #[error("the BPF object was not made for this program: it reads member {0:#x}")]
    Unknown(i16),
}

/// Bytes of an instruction: operation, registers, offset (16 bits), immediate (32 bits).
const INSTRUCTION: usize = 8;
/// The operation's class is in its low three bits: a load from memory.
const CLASS_LOAD: u8 = 0x01;
/// Loads a 64-bit immediate, and takes two instructions' room.
const LOAD_WIDE: u8 = 0x18;
/// Adds an immediate to a 64-bit register.
const ADD: u8 = 0x07;

/// The object with `offsets` in it. A member that is not among them keeps its number: a kernel that lacks it must not
/// come to read it.
pub(crate) fn patch(object: &[u8], offsets: &[(i16, u32)]) -> Result<Vec<u8>, PatchError> {
    let mut patched = object.to_vec();
    for range in code(object)? {
        let Some(code) = patched.get_mut(range) else { continue };
        let mut wide = false;
        for instruction in code.as_chunks_mut::<INSTRUCTION>().0 {
            // The second half of a wide load is data.
            if std::mem::take(&mut wide) {
                continue;
            }
            let [operation, _, low, high, immediate @ ..] = instruction;
            wide = *operation == LOAD_WIDE;
            if *operation & 0x07 == CLASS_LOAD {
                if let Some(offset) = offset_of(i16::from_le_bytes([*low, *high]), offsets)? {
                    [*low, *high] = offset.to_le_bytes();
                }
            } else if *operation == ADD
                && let Ok(number) = i16::try_from(i32::from_le_bytes(*immediate))
                && let Some(offset) = offset_of(number, offsets)?
            {
                *immediate = i32::from(offset).to_le_bytes();
            }
        }
    }
    Ok(patched)
}

/// Where the object's instructions are.
fn code(object: &[u8]) -> Result<Vec<Range<usize>>, PatchError> {
    let sections = object::File::parse(object)?;
    let code = sections.sections().filter(|section| section.kind() == SectionKind::Text);
    Ok(code
        .filter_map(|section| section.file_range())
        .filter_map(|(start, length)| {
            Some(start.try_into().ok()?..start.checked_add(length)?.try_into().ok()?)
        })
        .collect())
}

/// The offset for a member's number; none for any other number, and for a member that is not there.
fn offset_of(number: i16, offsets: &[(i16, u32)]) -> Result<Option<i16>, PatchError> {
    if number < FIRST {
        return Ok(None);
    }
    let index = usize::try_from((number - FIRST) / STEP).ok().filter(|_| (number - FIRST) % STEP == 0);
    let Some(&member) = index.and_then(|index| NAMES.get(index)) else {
        return Err(PatchError::Unknown(number));
    };
    let Some(&(_, offset)) = offsets.iter().find(|(member, _)| *member == number) else { return Ok(None) };
    match i16::try_from(offset) {
        Ok(offset) => Ok(Some(offset)),
        Err(_) => Err(PatchError::TooFar { member, offset }),
    }
}

#[cfg(test)]
mod tests {
    use reaper_ebpf::member::{TASK_PID, TASK_TGID};

    use super::*;

    fn numbers(object: &[u8]) -> usize {
        let of = |chunk: &&[u8]| i16::from_le_bytes([chunk[2], chunk[3]]);
        let is_number = |number: i16| offset_of(number, &[]).is_ok() && number >= FIRST;
        let loads = |range: Range<usize>| {
            object[range].chunks_exact(INSTRUCTION).filter(|chunk| chunk[0] & 7 == CLASS_LOAD)
        };
        code(object).unwrap().into_iter().flat_map(loads).filter(|chunk| is_number(of(chunk))).count()
    }

    #[test]
    fn every_number_in_the_object_gives_way_to_its_offset() {
        let numbers_of_all = (FIRST..).step_by(STEP.unsigned_abs().into()).take(NAMES.len());
        let all: Vec<(i16, u32)> = numbers_of_all.map(|number| (number, 64)).collect();
        assert!(numbers(super::super::OBJECT) > NAMES.len(), "the object reads each at least once");
        let patched = patch(super::super::OBJECT, &all).unwrap();
        assert_eq!(numbers(&patched), 0);
        assert_eq!(patched.len(), super::super::OBJECT.len());
    }

    #[test]
    fn a_member_that_is_not_there_keeps_its_number() {
        let patched = patch(super::super::OBJECT, &[(TASK_PID, 64)]).unwrap();
        let left = numbers(&patched);
        assert!(left > 0 && left < numbers(super::super::OBJECT));
    }

    #[test]
    fn an_offset_out_of_reach_is_refused_by_name() {
        let refused = patch(super::super::OBJECT, &[(TASK_TGID, 40_000)]).unwrap_err();
        assert!(refused.to_string().contains("TASK_TGID at offset 40000"), "{refused}");
    }

    #[test]
    fn numbers_that_are_none_of_ours_are_refused() {
        assert!(offset_of(FIRST + 1, &[]).is_err());
        assert!(offset_of(i16::MAX, &[]).is_err());
        assert_eq!(offset_of(FIRST - 1, &[]).unwrap(), None);
        assert_eq!(offset_of(-8, &[]).unwrap(), None);
    }
}
