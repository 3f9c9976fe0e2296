//! What is written into a holder before a register of it is changed: a signal frame with its own context, which it falls back
//! into if the tracer dies, and before that the chain of calls that it makes.
//!
//! ```text
//! 0    magic · start of the holder · pages · checksum          what says that only we were here
//! 32   seconds, microseconds (written by select) · in use, or done with
//! 64   room for two signal actions
//! 128  for each further call: pop first · number · pop number · call's number · call; then the same for select
//!      frame (returns to rt_sigreturn, or is preceded by what calls it)
//!      XSAVE image, aligned
//! ```
//! On aarch64 there is no chain, and the vector registers are in the frame.

use super::{
    arch::{self, FRAME_BYTES, Registers, VECTORS_ALIGN, VECTORS_TAIL},
    code::Code,
};

/// Bytes of a page on every architecture that this is for.
pub const PAGE: u64 = 4096;

/// Where a chain waits for the tracer: a moment later it falls through into the frame.
const HOLD_MICROSECONDS: u64 = 20_000;

/// Bytes of the words in a chain that make it wait so: as many as any call of it has.
const HOLD_BYTES: u64 = 5 * 8;

/// Pages that are written at most.
pub const MOST_PAGES: u64 = 16;

/// What a tracer writes that has put the thread's own registers back while it stood: nobody is in the frame, nor will be. Anything
/// else means that somebody may be, zeros as well, which are what memory holds that was only cleared.
pub const DONE: u64 = u64::from_le_bytes(*b"all out\n");

const MAGIC: u64 = u64::from_le_bytes(*b"reaper\x01\n");
const TIMEVAL: u64 = 32;
const IN_USE: u64 = 48;
const ACTIONS: u64 = 64;
const BODY: u64 = 128;

/// What is written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The first address: of a page.
    pub at: u64,
    /// The bytes: whole pages.
    pub bytes: Vec<u8>,
    /// The stack pointer to begin with.
    pub stack: u64,
    /// The stack pointer when all of the chain has been called: where the frame is.
    pub end: u64,
}

/// The state that the frame restores.
#[derive(Clone, Debug)]
pub struct Context {
    /// General registers.
    pub registers: Registers,
    /// Vector registers, as the frame wants them.
    pub vectors: Vec<u8>,
    /// Signal mask.
    pub mask: u64,
}

/// Bytes that a layout needs with a chain of `calls`.
#[must_use]
pub fn needed(vectors: usize, calls: usize) -> u64 {
    let chain = calls.saturating_sub(1) * 40 + 40 + 16;
    let bytes = usize::try_from(BODY).unwrap_or(0) + chain + FRAME_BYTES + vectors + VECTORS_TAIL;
    (bytes as u64 + VECTORS_ALIGN).next_multiple_of(PAGE)
}

/// For one call at a time.
#[must_use]
pub fn single(at: u64, start: u64, code: &Code, context: &Context) -> Option<Layout> {
    build(at, start, code, context, &[])
}

/// For a chain: a wait for each of these numbers, of which the first is made by the registers, then a wait for the tracer.
#[must_use]
pub fn chain(at: u64, start: u64, code: &Code, context: &Context, numbers: &[u32]) -> Option<Layout> {
    let (pop_first, pop_number, call) = (code.pop_first?, code.pop_number?, code.call?);
    let mut words = Vec::with_capacity(numbers.len() * 5);
    for number in numbers.iter().skip(1) {
        words.extend([pop_first, u64::from(*number), pop_number, arch_call(libc::SYS_wait4), call]);
    }
    words.extend([pop_first, 0, pop_number, arch_call(arch::HOLD), call]);
    build(at, start, code, context, &words)
}

fn build(at: u64, start: u64, code: &Code, context: &Context, chain: &[u64]) -> Option<Layout> {
    let mut words = chain.to_vec();
    let returns_to = match code.sigreturn {
        Some(address) => address,
        None => {
            words.extend([code.pop_number?, arch_call(libc::SYS_rt_sigreturn)]);
            code.call?
        }
    };
    let stack = at + BODY;
    let frame_at = stack + words.len() as u64 * 8;
    let vectors_at = arch::vectors_at(frame_at);
    let end_of_frame = frame_at + FRAME_BYTES as u64;
    let length = end_of_frame.max(vectors_at + context.vectors.len() as u64) - at;
    let mut bytes = vec![0; usize::try_from(length.next_multiple_of(PAGE)).ok()?];
    let pages = bytes.len() as u64 / PAGE;
    for (place, word) in words.iter().enumerate() {
        put(&mut bytes, BODY + place as u64 * 8, *word);
    }
    let frame = arch::frame(&context.registers, context.mask, returns_to, vectors_at);
    copy(&mut bytes, frame_at - at, &frame)?;
    copy(&mut bytes, vectors_at - at, &context.vectors)?;
    put(&mut bytes, TIMEVAL + 8, HOLD_MICROSECONDS);
    put(&mut bytes, IN_USE, 1);
    for (place, word) in [MAGIC, start, pages, checksum(&bytes)].into_iter().enumerate() {
        put(&mut bytes, place as u64 * 8, word);
    }
    // Behind the chain, what calls rt_sigreturn where no trampoline does.
    let end = stack + chain.len() as u64 * 8;
    Some(Layout { at, bytes, stack, end })
}

impl Layout {
    /// Writes this many bytes, at least: all of what was left there before is replaced.
    pub fn extend_to(&mut self, bytes: u64) {
        let wanted = usize::try_from(bytes.next_multiple_of(PAGE)).unwrap_or(0);
        if wanted > self.bytes.len() {
            self.bytes.resize(wanted, 0);
            put(&mut self.bytes, 16, bytes.div_ceil(PAGE));
            let sum = checksum(&self.bytes);
            put(&mut self.bytes, 24, sum);
        }
    }

    /// Whether a thread with this stack pointer has made all waits of the chain. `in_wait`: it stands behind one of them.
    #[must_use]
    pub const fn has_waited(&self, stack: u64, in_wait: bool) -> bool {
        // Behind the last of them the stack pointer is where the words for what it waits for its tracer with are.
        let last = self.end - HOLD_BYTES;
        stack <= self.end && (stack > last || stack == last && in_wait)
    }

    /// Where the time is that a chain waits for the tracer.
    #[must_use]
    pub const fn hold(&self) -> u64 {
        self.at + TIMEVAL
    }

    /// Where two signal actions have room.
    #[must_use]
    pub const fn actions(&self) -> u64 {
        self.at + ACTIONS
    }

    /// Where it says whether the frame may still be used.
    #[must_use]
    pub const fn in_use(&self) -> u64 {
        self.at + IN_USE
    }

    /// Whether an address is of the chain or the frame.
    #[must_use]
    pub const fn holds(&self, address: u64) -> bool {
        address >= self.at && address < self.at + self.bytes.len() as u64
    }
}

/// What was left at the same place before, by this holder's start: its pages, and whether a frame there may still be used.
///
/// `None` where it is not exactly what was left.
#[must_use]
pub fn left(bytes: &[u8], start: u64) -> Option<(u64, bool)> {
    let [magic, of, pages, sum] = [0, 8, 16, 24].map(|at| word(bytes, at));
    let whole = magic == Some(MAGIC)
        && of == Some(start)
        && pages.is_some_and(|pages| pages * PAGE == bytes.len() as u64)
        && sum == Some(checksum(bytes));
    whole.then_some((pages?, word(bytes, IN_USE) != Some(DONE)))
}

/// The pages that a header claims, before all of them are read.
#[must_use]
pub fn claimed(header: &[u8], start: u64) -> Option<u64> {
    let ours = word(header, 0) == Some(MAGIC) && word(header, 8) == Some(start);
    word(header, 16).filter(|pages| ours && (1..=MOST_PAGES).contains(pages))
}

/// Of all behind the header, which the calls themselves write into. Not a secret: what it is for is to see that nobody else has
/// written here.
fn checksum(bytes: &[u8]) -> u64 {
    let body = bytes.get(usize::try_from(BODY).unwrap_or(0)..).unwrap_or_default();
    body.chunks(8).fold(0xcbf2_9ce4_8422_2325, |sum: u64, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

fn arch_call(number: i64) -> u64 {
    number.unsigned_abs()
}

fn word(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    let _fits = copy(bytes, at, &value.to_le_bytes());
}

fn copy(bytes: &mut [u8], at: u64, from: &[u8]) -> Option<()> {
    let at = usize::try_from(at).ok()?;
    bytes.get_mut(at..at + from.len())?.copy_from_slice(from);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: Code =
        Code { call: Some(0xca11), sigreturn: Some(0x516), pop_first: Some(0xf1), pop_number: Some(0x0a) };

    fn context() -> Context {
        Context {
            registers: Registers::from_words([7; arch::WORDS]),
            vectors: vec![3; 832 + VECTORS_TAIL],
            mask: 0,
        }
    }

    fn words(layout: &Layout) -> Vec<u64> {
        let from = layout.stack - layout.at;
        (0..40).map(|place| word(&layout.bytes, from + place * 8).unwrap()).collect()
    }

    #[test]
    fn a_single_call_returns_into_the_frame() {
        let layout = single(0x7000, 9, &CODE, &context()).unwrap();
        assert_eq!((layout.stack, layout.end), (0x7000 + 128, 0x7000 + 128));
        assert_eq!(words(&layout)[0], 0x516, "what the call returns to");
        assert_eq!(layout.bytes.len() as u64, needed(832, 1));
    }

    #[test]
    fn without_a_trampoline_rt_sigreturn_is_called_by_its_number() {
        let code = Code { sigreturn: None, ..CODE };
        let layout = single(0x7000, 9, &code, &context()).unwrap();
        assert_eq!(words(&layout)[..3], [0x0a, 15, 0xca11]);
        assert_eq!(single(0, 9, &Code { pop_number: None, ..code }, &context()), None);
    }

    #[test]
    fn a_chain_makes_each_call_and_then_waits_for_the_tracer() {
        let layout = chain(0x7000, 9, &CODE, &context(), &[11, 12, 13]).unwrap();
        let expected =
            [[0xf1, 12, 0x0a, 61, 0xca11], [0xf1, 13, 0x0a, 61, 0xca11], [0xf1, 0, 0x0a, 23, 0xca11]];
        assert_eq!(words(&layout)[..15], expected.concat());
        assert_eq!((layout.end, words(&layout)[15]), (layout.stack + 15 * 8, 0x516));
        assert_eq!(word(&layout.bytes, layout.hold() - layout.at + 8), Some(20_000));
        // Before the last wait, in it or behind it; at any word for select; in it; in the frame.
        let last = layout.stack + 10 * 8;
        assert!(!layout.has_waited(last - 8, true) && !layout.has_waited(last, false));
        assert!(layout.has_waited(last, true));
        assert!((1..=5).all(|word| layout.has_waited(last + word * 8, false)));
        assert!(!layout.has_waited(layout.end + 8, false) && !layout.has_waited(layout.end + 8, true));
        let many: Vec<u32> = (0..500).collect();
        let layout = chain(0x7000, 9, &CODE, &context(), &many).unwrap();
        assert!(layout.bytes.len() as u64 <= needed(832, 500));
        assert_eq!(chain(0, 9, &Code { pop_first: None, ..CODE }, &context(), &[1]), None);
    }

    #[test]
    fn what_was_left_is_known_again_and_nothing_else_is() {
        let layout = chain(0x7000, 9, &CODE, &context(), &[11, 12]).unwrap();
        let pages = layout.bytes.len() as u64 / PAGE;
        assert_eq!(
            (claimed(&layout.bytes[..64], 9), left(&layout.bytes, 9)),
            (Some(pages), Some((pages, true)))
        );
        let mut used = layout.bytes.clone();
        // By select, by the one who is done with it, by sigaction.
        for at in [TIMEVAL + 8, IN_USE, ACTIONS + 8] {
            put(&mut used, at, 0);
        }
        assert_eq!(left(&used, 9), Some((pages, true)), "nobody has said that it is done with");
        put(&mut used, IN_USE, DONE);
        assert_eq!(left(&used, 9), Some((pages, false)));
        assert_eq!(left(&used, 10), None, "another life of the pid");
        for at in [BODY, used.len() as u64 - 8] {
            let mut touched = used.clone();
            put(&mut touched, at, 0x1234_5678);
            assert_eq!(left(&touched, 9), None, "{at}");
        }
        assert_eq!(left(&used[..used.len() - 1], 9), None);
        assert_eq!(left(&[0; 4096], 9), None);
    }
}
