//! Rows of unwind tables that framehop cannot apply. It goes by the frame pointer there without a word, and what comes out may lie
//! on the stack for another reason: gcc writes such rows where a function aligns its stack anew (vectors beside `alloca`), as
//! "the caller's stack pointer is what lies eight bytes below the frame pointer".
//! <https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/ehframechpt.html>

use gimli::{
    BaseAddresses, CfaRule, Encoding, EndianSlice, Evaluation, EvaluationResult, Expression,
    FrameDescriptionEntry, LittleEndian, Location, Register, RegisterRule, UnwindContext, UnwindSection,
    Value, X86_64,
};

type Slice = EndianSlice<'static, LittleEndian>;

/// Steps of one expression, which is somebody else's.
const STEPS: u32 = 256;

/// What is known of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
}

/// How a function is left at an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// As framehop does.
    Plain,
    /// To this caller.
    To(Known),
    /// In a way that is not known.
    Strange,
}

/// What the row for an address says. `read` has the stack.
pub(super) fn row<S: UnwindSection<Slice>>(
    section: &S,
    bases: &BaseAddresses,
    entry: &FrameDescriptionEntry<Slice>,
    address: u64,
    known: Known,
    read: &dyn Fn(u64) -> Option<u64>,
) -> Row {
    let mut context = UnwindContext::new();
    let Ok(row) = entry.unwind_info_for_address(section, bases, &mut context, address) else {
        return Row::Strange;
    };
    let (caller, base) = (row.register(X86_64::RA), row.register(X86_64::RBP));
    if is_plain(row.cfa(), caller.as_ref(), base.as_ref()) {
        return Row::Plain;
    }
    let frame = Frame { section, encoding: entry.cie().encoding(), known, read };
    frame.caller(row.cfa(), caller.as_ref(), base.as_ref()).map_or(Row::Strange, Row::To)
}

/// Whether framehop has a rule of its own for it, which either fits or fails.
fn is_plain(
    cfa: &CfaRule<usize>,
    caller: Option<&RegisterRule<usize>>,
    base: Option<&RegisterRule<usize>>,
) -> bool {
    use RegisterRule::{Offset, SameValue, Undefined};
    match caller {
        // The outermost.
        None | Some(Undefined) => return true,
        Some(Offset(-8)) => {}
        Some(_) => return false,
    }
    let CfaRule::RegisterAndOffset { register, offset } = cfa else { return false };
    match (*register, base) {
        (X86_64::RSP, None | Some(Undefined | SameValue)) => (0..1 << 18).contains(offset),
        (X86_64::RSP, Some(Offset(saved))) => {
            (0..1 << 18).contains(offset) && (-(1 << 17)..1 << 17).contains(&(offset + saved))
        }
        (X86_64::RBP, Some(Offset(-16))) => *offset == 16,
        _ => false,
    }
}

struct Frame<'a, S> {
    section: &'a S,
    encoding: Encoding,
    known: Known,
    read: &'a dyn Fn(u64) -> Option<u64>,
}

impl<S: UnwindSection<Slice>> Frame<'_, S> {
    fn caller(
        &self,
        cfa: &CfaRule<usize>,
        caller: Option<&RegisterRule<usize>>,
        base: Option<&RegisterRule<usize>>,
    ) -> Option<Known> {
        let sp = match cfa {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.register(*register)?.checked_add_signed(*offset)?
            }
            CfaRule::Expression(expression) => self.evaluate(expression.get(self.section).ok()?, None)?,
        };
        let ip = self.value(caller?, sp, None)?;
        let bp = base.map_or(Some(self.known.bp), |base| self.value(base, sp, Some(self.known.bp)))?;
        // A stack only shrinks on the way out.
        (sp > self.known.sp).then_some(Known { ip, sp, bp })
    }

    /// A register of the caller's, that has this value here.
    fn value(&self, rule: &RegisterRule<usize>, cfa: u64, here: Option<u64>) -> Option<u64> {
        match rule {
            RegisterRule::Undefined | RegisterRule::SameValue => here,
            RegisterRule::Offset(offset) => (self.read)(cfa.checked_add_signed(*offset)?),
            RegisterRule::ValOffset(offset) => cfa.checked_add_signed(*offset),
            RegisterRule::Register(register) => self.register(*register),
            RegisterRule::Expression(expression) => {
                (self.read)(self.evaluate(expression.get(self.section).ok()?, Some(cfa))?)
            }
            RegisterRule::ValExpression(expression) => {
                self.evaluate(expression.get(self.section).ok()?, Some(cfa))
            }
            _ => None,
        }
    }

    fn register(&self, register: Register) -> Option<u64> {
        let Known { ip, sp, bp } = self.known;
        match register {
            X86_64::RA => Some(ip),
            X86_64::RSP => Some(sp),
            X86_64::RBP => Some(bp),
            _ => None,
        }
    }

    fn evaluate(&self, expression: Expression<Slice>, first: Option<u64>) -> Option<u64> {
        let mut evaluation = Evaluation::new(expression.0, self.encoding);
        evaluation.set_max_iterations(STEPS);
        if let Some(first) = first {
            evaluation.set_initial_value(first);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register)?)).ok()?
                }
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    evaluation.resume_with_memory(Value::Generic((self.read)(address)?)).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result() {
            [piece] => match piece.location {
                Location::Address { address } => Some(address),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use gimli::DebugFrame;

    use super::*;

    /// Of code at 0x1000, with the return address below the caller's stack pointer and these instructions behind that.
    fn table(instructions: &[u8]) -> &'static [u8] {
        // def_cfa rsp+8; offset RA, cfa-8
        let first = [0x0c, 7, 8, 0x90, 1];
        let entry = |kind: u32, body: &[u8]| {
            let length = u32::try_from(body.len() + 4).unwrap().to_le_bytes();
            [length.as_slice(), kind.to_le_bytes().as_slice(), body].concat()
        };
        // Version 4, no augmentation, 8 bytes an address, no segments, factors 1 and -8.
        let common = entry(u32::MAX, &[[4, 0, 8, 0, 1, 0x78, 16].as_slice(), first.as_slice()].concat());
        let range = [0x1000_u64.to_le_bytes(), 0x100_u64.to_le_bytes()].concat();
        let own = entry(0, &[range.as_slice(), instructions].concat());
        Box::leak([common, own].concat().into_boxed_slice())
    }

    const KNOWN: Known = Known { ip: 0x1010, sp: 0x7000, bp: 0x7100 };

    /// Each word of the stack is its own address and one.
    fn told(instructions: &[u8]) -> Row {
        let mut frames = DebugFrame::new(table(instructions), LittleEndian);
        frames.set_address_size(8);
        let bases = BaseAddresses::default();
        let entry = frames.fde_for_address(&bases, 0x1010, DebugFrame::cie_from_offset).unwrap();
        let read = |address: u64| (0x7000..0x8000).contains(&address).then_some(address + 1);
        row(&frames, &bases, &entry, 0x1010, KNOWN, &read)
    }

    #[test]
    fn rows_that_the_unwinder_knows_are_left_to_it() {
        assert_eq!(told(&[]), Row::Plain);
        // def_cfa rbp+16; offset rbp, cfa-16
        assert_eq!(told(&[0x0c, 6, 16, 0x86, 2]), Row::Plain);
        // undefined RA: the outermost
        assert_eq!(told(&[0x07, 16]), Row::Plain);
    }

    #[test]
    fn a_row_that_dereferences_is_evaluated() {
        // def_cfa_expression breg6-8 deref; expression rbp, breg6+0
        let realigned = [0x0f, 3, 0x76, 0x78, 0x06, 0x10, 6, 2, 0x76, 0];
        assert_eq!(told(&realigned), Row::To(Known { sp: 0x70f9, ip: 0x70f2, bp: 0x7101 }));
        // def_cfa rbp+32; offset rbp, cfa-16, which libffi has
        assert_eq!(told(&[0x0c, 6, 32, 0x86, 2]), Row::To(Known { sp: 0x7120, ip: 0x7119, bp: 0x7111 }));
    }

    #[test]
    fn a_row_that_cannot_be_applied_is_said_to_be_strange() {
        for (what, instructions) in [
            ("def_cfa r10+0", [0x0c, 10, 0].as_slice()),
            ("def_cfa_sf rbp-4096, which is below", &[0x12, 6, 0x80, 0x04]),
            ("breg6 + 16384, deref, which was not copied", &[0x0f, 5, 0x76, 0x80, 0x80, 0x01, 0x06]),
            ("skip to itself", &[0x0f, 3, 0x2f, 0xfd, 0xff]),
            ("nothing", &[0x0f, 0]),
        ] {
            assert_eq!(told(instructions), Row::Strange, "{what}");
        }
    }
}
