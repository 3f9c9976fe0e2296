//! From registers and the bytes of a stack to return addresses.

use std::rc::Rc;

use framehop::{
    FrameAddress, Unwinder as _,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};

use super::{
    call::{self, Call},
    files::Module,
    rows::{Known, Row},
};
use crate::origin::{
    native::Registers,
    symbols::message::{FRAMES, Place, Span, Unnamed, Unwound},
};

/// Bytes of stack in which a return address is looked for where there are no tables. musl's `posix_spawn` has more than 5 KiB of
/// locals.
const SCANNED: u64 = 12 << 10;

/// Beginnings that are tried before none is found.
const TRIALS: usize = 64;

/// Frames that one has to lead to where the stack's outermost is not reached.
const ENOUGH: usize = 4;

/// Bytes that a function in assembler which only makes a system call may have.
const LEAF: u64 = 256;

/// A forker's memory as far as it is known.
pub(super) struct Stack<'a> {
    spans: &'a [Span],
    modules: &'a [Option<Rc<Module>>],
    from: u64,
    bytes: &'a [u8],
    unwinder: UnwinderX86_64<&'static [u8]>,
}

/// What the code at an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    /// Tables tell how to leave it.
    Covered,
    /// It keeps frame pointers.
    FramePointers,
    /// It is in a file whose tables do not tell of it.
    Bare,
    /// It is in a file that has no tables.
    TableLess,
    /// It is in memory without a file.
    Memory,
    /// There is no code.
    Nowhere,
}

struct Position {
    address: FrameAddress,
    registers: UnwindRegsX86_64,
    guessed: bool,
}

impl<'a> Stack<'a> {
    /// `bytes` begin at the stack pointer.
    pub(super) fn new(
        registers: &Registers,
        spans: &'a [Span],
        modules: &'a [Option<Rc<Module>>],
        bytes: &'a [u8],
    ) -> Self {
        let mut unwinder = UnwinderX86_64::new();
        for span in spans {
            let module = span.file.and_then(|file| modules.get(usize::from(file))?.as_ref());
            if let Some((module, bias)) = module.and_then(|module| Some((module, bias(module, span)?))) {
                unwinder.add_module(module.tables().module(&module.elf, span.start, span.end, bias));
            }
        }
        Self { spans, modules, from: registers.sp(), bytes, unwinder }
    }

    /// Its frames.
    pub(super) fn unwind(&self, registers: &Registers) -> Unwound {
        let mut unwound = Unwound::default();
        // The rules it keeps are told apart by a number that wraps: not for longer than one stack.
        let mut cache = CacheX86_64::new();
        let mut at = Position {
            address: FrameAddress::from_instruction_pointer(registers.ip),
            registers: UnwindRegsX86_64::new(registers.ip, registers.sp(), registers.bp()),
            guessed: false,
        };
        // Anything else is not where it forked: it runs another program by now.
        if !self.is_behind_system_call(registers.ip) {
            return unwound;
        }
        self.push(&mut unwound, &at);
        if let Some(caller) = self.return_in_register(registers) {
            at.registers.set_ip(caller);
            self.advance(&mut unwound, &mut at, caller);
        }
        while unwound.frames.len() < FRAMES {
            match self.step(&mut at, &mut cache) {
                Step::To(caller) => self.advance(&mut unwound, &mut at, caller),
                Step::Outermost => {
                    unwound.complete = true;
                    break;
                }
                Step::Scan => {
                    if let Some((frames, complete)) = self.scan(&at.registers, &mut cache) {
                        unwound.frames.extend(frames);
                        unwound.frames.truncate(FRAMES);
                        unwound.complete = complete;
                        break;
                    }
                    let Some(caller) = self.frame_pointer(&mut at.registers, |_| true) else { break };
                    at.guessed = true;
                    self.advance(&mut unwound, &mut at, caller);
                }
                Step::Lost => break,
            }
        }
        unwound
    }

    fn advance(&self, unwound: &mut Unwound, at: &mut Position, caller: u64) {
        if let Some(address) = FrameAddress::from_return_address(caller) {
            at.address = address;
            self.push(unwound, at);
        }
    }

    fn push(&self, unwound: &mut Unwound, at: &Position) {
        unwound.frames.push(self.unnamed(at.address.address_for_lookup(), at.guessed));
    }

    fn unnamed(&self, at: u64, guessed: bool) -> Unnamed {
        let place = self.find(at).and_then(|(span, found)| {
            let (_, address) = found?;
            Some(Place { file: span.file?, address })
        });
        Unnamed { at, place, guessed }
    }

    fn step(&self, at: &mut Position, cache: &mut CacheX86_64) -> Step {
        let is_first = !at.address.is_return_address();
        match self.ground(at.address.address_for_lookup()) {
            Ground::Covered | Ground::FramePointers => self.follow(at, cache),
            Ground::Memory => {
                at.guessed = true;
                self.frame_pointer(&mut at.registers, |_| true).map_or(Step::Lost, Step::To)
            }
            Ground::TableLess => {
                at.guessed = true;
                self.frame_pointer(&mut at.registers, |_| true).map_or(Step::Scan, Step::To)
            }
            Ground::Bare if is_first => self.leaf(&mut at.registers).map_or(Step::Scan, Step::To),
            Ground::Bare => {
                // The frame pointer may be its caller's: then the call before that return address goes to code with tables.
                at.guessed = true;
                let is_own = |target| self.ground(target) != Ground::Covered;
                self.frame_pointer(&mut at.registers, is_own).map_or(Step::Scan, Step::To)
            }
            Ground::Nowhere => Step::Lost,
        }
    }

    fn follow(&self, at: &mut Position, cache: &mut CacheX86_64) -> Step {
        match self.row(at) {
            Row::Plain => {}
            Row::To(caller) => {
                at.registers = UnwindRegsX86_64::new(caller.ip, caller.sp, caller.bp);
                let is_code = self.ground(caller.ip.wrapping_sub(1)) != Ground::Nowhere;
                return if is_code { Step::To(caller.ip) } else { Step::Lost };
            }
            // It would go by the frame pointer, and not say so.
            Row::Strange => at.guessed = true,
        }
        let mut read = |address| self.read(address).ok_or(());
        match self.unwinder.unwind_frame(at.address, &mut at.registers, cache, &mut read) {
            Ok(Some(caller)) if self.ground(caller.wrapping_sub(1)) != Ground::Nowhere => Step::To(caller),
            Ok(None) => Step::Outermost,
            Ok(Some(_)) | Err(_) => Step::Lost,
        }
    }

    /// What tables say about a position, where there are any.
    fn row(&self, at: &Position) -> Row {
        let address = at.address.address_for_lookup();
        let Some((_, Some((module, address)))) = self.find(address) else { return Row::Plain };
        let registers = &at.registers;
        let known = Known { ip: registers.ip(), sp: registers.sp(), bp: registers.bp() };
        match module.tables().cover(address) {
            true => module.tables().row(address, known, &|address| self.read(address)),
            // Go's, which keeps frame pointers.
            false => Row::Plain,
        }
    }

    /// glibc's and musl's `vfork` and Go's keep their return address in a register over the call, because parent and child share
    /// the stack, and push it behind it.
    fn return_in_register(&self, registers: &Registers) -> Option<u64> {
        let caller = *registers.general.get(call::pushed(self.code(registers.ip)?)?)?;
        self.call_before(caller).map(|_| caller)
    }

    /// The frame of a function that only makes a system call, as glibc's `clone`: its return address is on top. It is one where
    /// the call goes to a little before.
    fn leaf(&self, registers: &mut UnwindRegsX86_64) -> Option<u64> {
        let (sp, ip) = (registers.sp(), registers.ip());
        let caller = self.read(sp)?;
        let Call::Direct(distance) = self.call_before(caller)? else { return None };
        let target = caller.wrapping_add_signed(distance.into());
        ip.checked_sub(target).filter(|into| *into < LEAF)?;
        registers.set_ip(caller);
        registers.set_sp(sp.checked_add(8)?);
        Some(caller)
    }

    /// The caller by the frame pointer, where there is a return address and the call before it goes to a target that fits, as far
    /// as can be told.
    fn frame_pointer(&self, registers: &mut UnwindRegsX86_64, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let (sp, bp) = (registers.sp(), registers.bp());
        let caller = self.read(bp.checked_add(8)?).filter(|_| bp >= sp)?;
        let is_call = match self.call_before(caller) {
            Some(Call::Direct(distance)) => fits(caller.wrapping_add_signed(distance.into())),
            Some(Call::Indirect) => true,
            // What was compiled at run time is not at hand.
            None => self.ground(caller.checked_sub(1)?) == Ground::Memory,
        };
        let next = self.read(bp).filter(|_| is_call)?;
        registers.set_ip(caller);
        registers.set_sp(bp.checked_add(16)?);
        registers.set_bp(next);
        Some(caller)
    }

    /// Looks for a return address that tables cover and from which the stack can be followed. What is found may have been left
    /// there by an earlier call: it is a guess.
    fn scan(&self, registers: &UnwindRegsX86_64, cache: &mut CacheX86_64) -> Option<(Vec<Unnamed>, bool)> {
        let beginnings = self.beginnings(registers).into_iter();
        best(beginnings.map(|Beginning { caller, sp, bp }| self.trial(caller, sp, bp, cache)))
    }

    /// Where it may go on, as many as are tried, the likely ones first.
    fn beginnings(&self, registers: &UnwindRegsX86_64) -> Vec<Beginning> {
        let mut beginnings = Vec::new();
        for indirect in [false, true] {
            let mut pointers = vec![registers.bp()];
            for slot in (registers.sp()..registers.sp().saturating_add(SCANNED)).step_by(8) {
                let Some(word) = self.read(slot) else { break };
                if word > slot && self.read(word).is_some() {
                    pointers.push(word);
                }
                if !self.leaves_tables(word, indirect) {
                    continue;
                }
                // The function's base pointer is the live one, or one that was saved below.
                let newest = pointers.iter().skip(1).rev().copied().take(4);
                for bp in std::iter::once(registers.bp()).chain(newest) {
                    if beginnings.len() >= TRIALS {
                        return beginnings;
                    }
                    beginnings.push(Beginning { caller: word, sp: slot + 8, bp });
                }
            }
        }
        beginnings
    }

    /// Whether a word is a return address in code with tables, behind a call to code without; or, where nothing better is found,
    /// to who knows where.
    fn leaves_tables(&self, word: u64, indirect: bool) -> bool {
        let Some(last) = word.checked_sub(1) else { return false };
        if self.ground(last) != Ground::Covered {
            return false;
        }
        match self.call_before(word) {
            Some(Call::Direct(distance)) => {
                let target = word.wrapping_add_signed(distance.into());
                let is_linkage = || self.code(target).is_some_and(call::is_linkage);
                self.ground(target) == Ground::Bare || is_linkage()
            }
            Some(Call::Indirect) => indirect,
            None => false,
        }
    }

    fn trial(&self, caller: u64, sp: u64, bp: u64, cache: &mut CacheX86_64) -> (Vec<Unnamed>, bool) {
        let mut unwound = Unwound::default();
        let Some(address) = FrameAddress::from_return_address(caller) else { return (Vec::new(), false) };
        let mut at = Position { address, registers: UnwindRegsX86_64::new(caller, sp, bp), guessed: true };
        self.push(&mut unwound, &at);
        while unwound.frames.len() < FRAMES {
            if !matches!(
                self.ground(at.address.address_for_lookup()),
                Ground::Covered | Ground::FramePointers
            ) {
                break;
            }
            match self.follow(&mut at, cache) {
                Step::To(caller) => self.advance(&mut unwound, &mut at, caller),
                step => return (unwound.frames, matches!(step, Step::Outermost)),
            }
        }
        (unwound.frames, false)
    }

    fn ground(&self, address: u64) -> Ground {
        match self.find(address) {
            None => Ground::Nowhere,
            Some((span, None)) if span.anonymous => Ground::Memory,
            Some((_, None)) => Ground::TableLess,
            Some((_, Some((module, address)))) => {
                if module.tables().cover(address) {
                    Ground::Covered
                } else if module.keeps_frame_pointers(address) {
                    Ground::FramePointers
                } else if module.tables().exist() {
                    Ground::Bare
                } else {
                    Ground::TableLess
                }
            }
        }
    }

    fn find(&self, address: u64) -> Option<(&'a Span, Option<(&'a Module, u64)>)> {
        let behind = self.spans.partition_point(|span| span.start <= address);
        let span = self.spans.get(behind.checked_sub(1)?).filter(|span| address < span.end)?;
        let module = span.file.and_then(|file| self.modules.get(usize::from(file))?.as_deref());
        let found = module.and_then(|module| Some((module, address.wrapping_sub(bias(module, span)?))));
        Some((span, found))
    }

    fn code(&self, address: u64) -> Option<&'static [u8]> {
        let (module, address) = self.find(address)?.1?;
        module.elf.bytes_at(address)
    }

    fn is_behind_system_call(&self, ip: u64) -> bool {
        /// `syscall`
        const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];
        let before = self.find(ip).and_then(|(_, found)| {
            let (module, address) = found?;
            module.elf.bytes_before(address)
        });
        before == Some(&SYSTEM_CALL)
    }

    fn call_before(&self, caller: u64) -> Option<Call> {
        let (module, last) = self.find(caller.checked_sub(1)?)?.1?;
        call::before(module.elf.bytes_before(last.checked_add(1)?)?)
    }

    fn read(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.from)?).ok()?;
        self.bytes.get(offset..)?.first_chunk().copied().map(u64::from_le_bytes)
    }
}

/// A return address that may be one, with what the registers were there.
struct Beginning {
    caller: u64,
    sp: u64,
    bp: u64,
}

/// The first that leads to the outermost frame, else the one that leads furthest, if that is far enough.
fn best(trials: impl Iterator<Item = (Vec<Unnamed>, bool)>) -> Option<(Vec<Unnamed>, bool)> {
    let mut best: Option<Vec<Unnamed>> = None;
    for (frames, complete) in trials {
        if complete {
            return Some((frames, true));
        }
        if frames.len() >= ENOUGH && best.as_ref().is_none_or(|best| best.len() < frames.len()) {
            best = Some(frames);
        }
    }
    best.map(|frames| (frames, false))
}

enum Step {
    To(u64),
    Outermost,
    Scan,
    Lost,
}

fn bias(module: &Module, span: &Span) -> Option<u64> {
    module.elf.bias(span.start, span.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(at: u64, count: usize) -> Vec<Unnamed> {
        vec![Unnamed { at, place: None, guessed: true }; count]
    }

    /// A stack full of words that look like return addresses uses up all that is tried.
    #[test]
    fn what_led_furthest_is_taken_where_nothing_leads_to_the_end() {
        let few = || (frames(1, ENOUGH - 1), false);
        let many = (0..TRIALS).map(|number| match number {
            3 => (frames(7, ENOUGH), false),
            5 => (frames(8, ENOUGH + 2), false),
            9 => (frames(9, ENOUGH + 2), false),
            _ => few(),
        });
        let found = best(many.clone());
        assert_eq!(found, Some((frames(8, ENOUGH + 2), false)));
        assert_eq!(best(many.chain([(frames(2, 1), true)])), Some((frames(2, 1), true)));
        assert_eq!(best(std::iter::repeat_with(few).take(TRIALS)), None);
    }
}
