//! What a thread's seccomp filters say to calls that it is to be made to make. They are read of it while it stands and
//! evaluated here: nothing is tried out.

use std::{collections::HashMap, fmt};

use rustix::io::Errno;

use super::{
    arch::AUDIT_ARCH,
    ptrace::{self, Instruction},
};

/// Filters of one thread that are read: the kernel allows more instructions in all than these can have.
const FILTERS: usize = 64;

/// Steps of one evaluation. A filter has no loops and at most 4,096 instructions.
const STEPS: usize = 4096;

/// What `seccomp_data` has: number, architecture, instruction pointer, six arguments.
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/seccomp.h>
const DATA_BYTES: u32 = 64;

/// Words of scratch memory (`BPF_MEMWORDS`).
const MEMORY: usize = 16;

const ACTION: u32 = 0xffff_0000;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;

/// A call as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Where the instruction behind the one that makes it is.
    pub from: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// The filters of a thread, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(Vec<Vec<Instruction>>);

/// Why a call may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The call.
    pub number: u64,
    /// What the filter returns for it; `None` where it is no program that this evaluates.
    pub action: Option<u32>,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Some(action) => write!(f, "system call {} gets {action:#010x}", self.number),
            None => write!(f, "system call {}: the filter could not be evaluated", self.number),
        }
    }
}

impl Filters {
    /// Reads those of a thread that stands, and has some.
    pub fn of(tid: u32) -> Result<Self, Errno> {
        let mut filters = Vec::new();
        while let Some(filter) = ptrace::seccomp_filter(tid, filters.len())? {
            if filters.len() == FILTERS {
                return Err(Errno::TOOBIG);
            }
            filters.push(filter);
        }
        Ok(Self(filters))
    }

    /// Whether every filter allows it: nothing but ALLOW and LOG is a yes.
    pub fn allow(&self, call: &Call) -> Result<(), Denied> {
        for filter in &self.0 {
            let action = evaluate(filter, call);
            if !action.is_some_and(|action| matches!(action & ACTION, ALLOW | LOG)) {
                return Err(Denied { number: call.number, action });
            }
        }
        Ok(())
    }
}

/// What a filter loads from `at`: aligned words of 32 bits only.
fn load(call: &Call, at: u32) -> Option<u32> {
    if !at.is_multiple_of(4) || at >= DATA_BYTES {
        return None;
    }
    let half = |word: u64| {
        let [low, high] = [word & 0xffff_ffff, word >> 32];
        u32::try_from(if at.is_multiple_of(8) { low } else { high }).ok()
    };
    match at {
        0 => u32::try_from(call.number).ok(),
        4 => Some(AUDIT_ARCH),
        8 | 12 => half(call.from),
        _ => half(*call.arguments.get(usize::try_from((at - 16) / 8).ok()?)?),
    }
}

// Classes, and what they do: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf_common.h>. What seccomp accepts of
// them: `seccomp_check_filter` in kernel/seccomp.c.
const LD_W_ABS: u16 = 0x20;
const LD_W_LEN: u16 = 0x80;
const LD_IMM: u16 = 0x00;
const LD_MEM: u16 = 0x60;
const LDX_W_LEN: u16 = 0x81;
const LDX_IMM: u16 = 0x01;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;
const TAX: u16 = 0x07;
const TXA: u16 = 0x87;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const BY_X: u16 = 0x08;

fn evaluate(filter: &[Instruction], call: &Call) -> Option<u32> {
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, HashMap::new());
    let mut at = 0_usize;
    for _ in 0..STEPS {
        let &Instruction { code, jt, jf, k } = filter.get(at)?;
        at += 1;
        match code {
            LD_W_ABS => a = load(call, k)?,
            LD_W_LEN => a = DATA_BYTES,
            LDX_W_LEN => x = DATA_BYTES,
            LD_IMM => a = k,
            LDX_IMM => x = k,
            LD_MEM => a = *memory.get(&k)?,
            LDX_MEM => x = *memory.get(&k)?,
            ST | STX if usize::try_from(k).ok()? < MEMORY => {
                memory.insert(k, if code == ST { a } else { x });
            }
            RET_K => return Some(k),
            RET_A => return Some(a),
            TAX => x = a,
            TXA => a = x,
            code if code & 0x07 == ALU => {
                let operand = if code & BY_X == 0 { k } else { x };
                a = alu(code & 0xf0, a, operand)?;
            }
            code if code & 0x07 == JMP => {
                let operand = if code & BY_X == 0 { k } else { x };
                let far = match code & 0xf0 {
                    0x00 => usize::try_from(k).ok()?,
                    condition => usize::from(if holds(condition, a, operand)? { jt } else { jf }),
                };
                at = at.checked_add(far)?;
            }
            _ => return None,
        }
    }
    None
}

fn alu(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand)?,
        0x70 => a.checked_shr(operand)?,
        0x80 => a.wrapping_neg(),
        0xa0 => a ^ operand,
        _ => return None,
    })
}

fn holds(condition: u16, a: u32, operand: u32) -> Option<bool> {
    Some(match condition {
        0x10 => a == operand,
        0x20 => a > operand,
        0x30 => a >= operand,
        0x40 => a & operand != 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u32 = 0x8000_0000;

    fn i(code: u16, k: u32) -> Instruction {
        Instruction { code, jt: 0, jf: 0, k }
    }

    fn j(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn call(number: u64, first: u64) -> Call {
        Call { number, from: 0x7f00_1234_5678, arguments: [first, 0, 0, 0, 0, 0] }
    }

    #[test]
    fn a_list_of_allowed_calls_is_followed() {
        // As container runtimes write them: architecture, then numbers, then a default.
        let filter = vec![
            i(LD_W_ABS, 4),
            j(0x15, AUDIT_ARCH, 1, 0),
            i(RET_K, KILL),
            i(LD_W_ABS, 0),
            j(0x35, 0x4000_0000, 3, 0),
            j(0x15, 61, 1, 0),
            j(0x15, 15, 0, 1),
            i(RET_K, ALLOW),
            i(RET_K, 0x0005_0001),
        ];
        let filters = Filters(vec![filter]);
        assert_eq!(filters.allow(&call(61, 0)), Ok(()));
        assert_eq!(filters.allow(&call(15, 0)), Ok(()));
        let denied = filters.allow(&call(23, 0)).unwrap_err();
        assert_eq!((denied.number, denied.action), (23, Some(0x0005_0001)));
    }

    #[test]
    fn every_filter_has_to_allow_it_and_arguments_count() {
        let all = vec![i(RET_K, ALLOW)];
        // The low and the high half of the first argument.
        let one = vec![
            i(LD_W_ABS, 16),
            j(0x15, 7, 0, 2),
            i(LD_W_ABS, 20),
            j(0x15, 1, 1, 0),
            i(RET_K, LOG),
            i(RET_K, 0x7fc0_0000),
        ];
        assert_eq!(Filters(vec![all.clone(), one.clone()]).allow(&call(1, 7)), Ok(()));
        assert!(Filters(vec![one, all]).allow(&call(1, 7 | 1 << 32)).is_err(), "a notification is no yes");
    }

    #[test]
    fn programs_that_the_kernel_would_not_have_taken_say_no() {
        for filter in [
            vec![],
            vec![i(LD_W_ABS, 64), i(RET_K, ALLOW)],
            vec![i(LD_W_ABS, 2), i(RET_K, ALLOW)],
            vec![j(0x05, u32::MAX, 0, 0), i(RET_K, ALLOW)],
            vec![i(ST, 16), i(RET_K, ALLOW)],
            vec![i(LD_MEM, 3), i(RET_K, ALLOW)],
            vec![i(0x34, 0), i(RET_K, ALLOW)],
            vec![i(0x28, 0), i(RET_K, ALLOW)],
        ] {
            let denied = Filters(vec![filter.clone()]).allow(&call(1, 0)).unwrap_err();
            assert_eq!(denied.action, None, "{filter:?}");
        }
        assert_eq!(Filters::default().allow(&call(1, 0)), Ok(()), "no filter, no objection");
    }

    #[test]
    fn scratch_memory_and_arithmetic_are_those_of_the_kernel() {
        let filter = vec![
            i(LD_W_ABS, 0),
            i(ST, 1),
            i(LDX_MEM, 1),
            i(0x0c, 0),    // a += x
            i(0x74, 1),    // a >>= 1
            i(0x54, 0xff), // a &= 0xff
            i(TAX, 0),
            i(LD_IMM, 61),
            j(0x1d, 0, 0, 1), // a == x
            i(RET_K, ALLOW),
            i(RET_K, KILL),
        ];
        let filters = Filters(vec![filter]);
        assert_eq!(filters.allow(&call(61, 0)), Ok(()));
        assert!(filters.allow(&call(62, 0)).is_err());
    }
}
