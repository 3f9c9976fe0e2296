//! Where the frame may lie: low in the main thread's stack, where nothing is. Never below a stack pointer, which would
//! be the neighbour's memory in programs that make their own stacks: Go's lie 2 KiB apart.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::{
    layout::{self, PAGE},
    memory::Memory,
};
use crate::proc::maps::Mapping;

/// A smaller stack has no room to spare.
const LEAST: u64 = 128 << 10;

/// Room below for a signal handler that runs on the frame after a tracer's death.
const BELOW: u64 = 32 << 10;

/// Between the frame and the main thread's stack pointer, where that thread stands.
const ABOVE: u64 = 8 << 10;

/// The same where it is only blocked: it may wake up meanwhile and go deeper than it has been.
const ABOVE_BLOCKED: u64 = 32 << 10;

/// What is known of the main thread's stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MainStack {
    /// The thread stands with it.
    Stands(u64),
    /// The thread is blocked with it.
    Blocked(u64),
    /// It has ended.
    Ended,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// No stack, or a small one, or it is in use that far down.
    NoRoom(&'static str),
    /// A frame of an earlier tracer is still being used.
    Unwinding,
}

/// The stack of a process, with what says which of its pages there are.
#[derive(Debug)]
pub struct Place {
    memory: Memory,
    /// Start of the process, by which it knows what was left.
    start: u64,
    stack: Mapping,
    pages: File,
}

impl Place {
    /// Low in this stack.
    pub fn new(memory: Memory, start: u64, stack: Mapping, pages: File) -> Result<Self, NoPlace> {
        if !stack.is_private_memory() || stack.end - stack.start < LEAST {
            return Err(NoPlace::NoRoom("its main stack is smaller than 128 KiB"));
        }
        Ok(Self { memory, start, stack, pages })
    }

    /// The address that the layout begins at.
    #[must_use]
    pub const fn at(&self) -> u64 {
        (self.stack.start + BELOW).next_multiple_of(PAGE)
    }

    /// The memory that it is in.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The mapping that it is in.
    #[must_use]
    pub const fn stack(&self) -> &Mapping {
        &self.stack
    }

    /// Whether a thread with this stack pointer may be in what was left here: in the chain or the frame of a tracer that died, or in a
    /// handler that runs below it.
    ///
    /// It is not where the tracer has said that it is done: that is written after the thread's own registers were put back and before
    /// the thread ran again, and each frame is laid over the one before with the mark of one that is in use. Otherwise the chain
    /// begins in these pages and goes up to the frame, which ends in them; the frame's context is the thread's own, and handlers go
    /// down. So above the pages nobody is in it. They are those of all that was laid before, too:
    /// a layout is never shorter than what it replaces ([`Self::check`]).
    #[must_use]
    pub fn may_be_in_use_at(&self, stack: u64) -> bool {
        self.is_in_use_at(self.left(), stack)
    }

    const fn is_in_use_at(&self, left: Option<(u64, bool)>, stack: u64) -> bool {
        stack >= self.stack.start && matches!(left, Some((pages, true)) if stack < self.at() + pages * PAGE)
    }

    /// Whether a stack pointer is where frames may lie, or handlers that run on them. Only the main thread's may be there for another
    /// reason.
    #[must_use]
    pub const fn is_low(&self, stack: u64) -> bool {
        stack >= self.stack.start && stack < self.at() + layout::MOST_PAGES * PAGE
    }

    /// Whether `bytes` may be written there now: nothing of the program's is there. Says how much of it must be written, so that
    /// all of what was left there before is replaced.
    pub fn check(&self, bytes: u64, main: MainStack) -> Result<u64, NoPlace> {
        let left = self.left();
        let ours = left.map_or(0, |(pages, _)| pages * PAGE);
        let bytes = bytes.max(ours);
        let end = self.at() + bytes;
        let is_on_it = |stack: u64| stack >= self.stack.start && stack <= self.stack.end;
        let pointer = match main {
            MainStack::Stands(stack) => Some((stack, ABOVE)),
            MainStack::Blocked(stack) => Some((stack, ABOVE_BLOCKED)),
            MainStack::Ended => None,
        };
        if let Some((stack, above)) = pointer.filter(|(stack, _)| is_on_it(*stack)) {
            if self.is_in_use_at(left, stack) {
                return Err(NoPlace::Unwinding);
            }
            if stack < end + above {
                return Err(NoPlace::NoRoom("its main stack is in use almost to its end"));
            }
            // Below the stack pointer is nothing that a program keeps, as long as it stands.
            if matches!(main, MainStack::Stands(_)) {
                return Ok(bytes);
            }
        }
        // It is on a stack of its own making, or gone, or may wake up and go as deep as it has been before: only pages that nobody
        // has used are free.
        let behind = self.are_there(self.at() + ours, (bytes - ours).div_ceil(PAGE))?;
        if behind.contains(&true) {
            return Err(NoPlace::NoRoom("the end of its main stack has been used"));
        }
        Ok(bytes)
    }

    /// What was left here, if it is exactly that: its pages, and whether a frame may still be in use.
    #[must_use]
    pub fn left(&self) -> Option<(u64, bool)> {
        // Reading a page that is not there would bring one into being.
        let there = self.are_there(self.at(), layout::MOST_PAGES).ok()?;
        if there.first() != Some(&true) {
            return None;
        }
        let mut header = [0; 64];
        self.memory.read(self.at(), &mut header).ok()?;
        let pages = layout::claimed(&header, self.start)?;
        let pages_there = there.iter().take_while(|is_there| **is_there).count();
        if (pages_there as u64) < pages {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(pages * PAGE).ok()?];
        self.memory.read(self.at(), &mut bytes).ok()?;
        layout::left(&bytes, self.start)
    }

    /// Which of so many pages have ever been used: they are in memory, or were swapped out.
    /// <https://docs.kernel.org/admin-guide/mm/pagemap.html>
    fn are_there(&self, address: u64, pages: u64) -> Result<Vec<bool>, NoPlace> {
        let mut entries = vec![[0; 8]; usize::try_from(pages).unwrap_or(0)];
        self.pages
            .read_exact_at(entries.as_flattened_mut(), address / PAGE * 8)
            .map_err(|_| NoPlace::NoRoom("the kernel does not say which pages of its stack are used"))?;
        Ok(entries.into_iter().map(|entry| u64::from_le_bytes(entry) >> 62 != 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};

    use super::{
        super::{
            arch::{self, Registers},
            code::Code,
            layout::Context,
        },
        *,
    };

    /// A stack of 132 KiB whose pages are there as `used` says, counted from the first of the frame.
    fn place(used: &[u64]) -> Place {
        let stack = Mapping {
            start: 0x10_0000,
            end: 0x10_0000 + (132 << 10),
            rights: *b"rw-p",
            offset: 0,
            device: 0,
            inode: 0,
            path: "[stack]".into(),
        };
        let mut pages = tempfile::tempfile().unwrap();
        pages.set_len(0x20_0000 / PAGE * 8).unwrap();
        for page in used {
            pages.seek(SeekFrom::Start((0x10_8000 / PAGE + page) * 8)).unwrap();
            pages.write_all(&(1_u64 << 63).to_le_bytes()).unwrap();
        }
        // Nothing was left there.
        let memory = Memory::of(tempfile::tempfile().unwrap());
        Place::new(memory, 9, stack, pages).unwrap()
    }

    #[test]
    fn a_main_thread_well_above_leaves_room_whatever_was_there() {
        let place = place(&[0, 1]);
        assert_eq!(place.at(), 0x10_8000);
        let end = 0x10_8000 + 2 * PAGE;
        let no_room = |main| matches!(place.check(2 * PAGE, main), Err(NoPlace::NoRoom(_)));
        assert_eq!(place.check(2 * PAGE, MainStack::Stands(end + (8 << 10))), Ok(2 * PAGE));
        assert!(no_room(MainStack::Stands(end + (8 << 10) - 8)));
        assert!(no_room(MainStack::Stands(0x10_8100)) && no_room(MainStack::Stands(0x10_0010)));
        assert!(no_room(MainStack::Blocked(end + (32 << 10))), "it has been there, and may go there again");
    }

    #[test]
    fn a_main_thread_that_is_only_blocked_leaves_pages_where_it_has_never_been() {
        let end = 0x10_8000 + 2 * PAGE;
        let check = |used: &[u64], stack| place(used).check(2 * PAGE, MainStack::Blocked(stack));
        assert_eq!(check(&[], end + (32 << 10)), Ok(2 * PAGE));
        assert!(check(&[1], end + (32 << 10)).is_err());
        assert!(check(&[], end + (32 << 10) - 8).is_err(), "it may go deeper than it has been");
    }

    #[test]
    fn a_main_thread_elsewhere_leaves_only_pages_that_were_never_used() {
        for main in [MainStack::Stands(0x7f00_0000), MainStack::Blocked(0x7f00_0000), MainStack::Ended] {
            assert_eq!(place(&[]).check(2 * PAGE, main), Ok(2 * PAGE));
            assert_eq!(place(&[2, 3]).check(2 * PAGE, main), Ok(2 * PAGE), "above is none of our business");
            for used in [0, 1] {
                assert!(matches!(place(&[used]).check(2 * PAGE, main), Err(NoPlace::NoRoom(_))), "{used}");
            }
        }
    }

    /// The same stack with a layout of so many pages in it, and what says whether it is in use.
    fn left(pages: u64, in_use: u64) -> Place {
        let used: Vec<u64> = (0..pages).collect();
        let place = place(&used);
        let code = Code { call: Some(1), sigreturn: Some(2), ..Code::default() };
        let registers = Registers::from_words([7; arch::WORDS]);
        let context = Context { registers, vectors: vec![3; 832], mask: 0 };
        let mut layout = layout::single(place.at(), 9, &code, &context).unwrap();
        layout.extend_to(pages * PAGE);
        place.memory().write(layout.at, &layout.bytes).unwrap();
        place.memory().write(layout.in_use(), &in_use.to_le_bytes()).unwrap();
        place
    }

    const AT: u64 = 0x10_8000;

    #[test]
    fn what_is_done_with_is_no_frame_in_use_wherever_a_thread_is() {
        let place = left(2, layout::DONE);
        for stack in [0x10_0000, AT, AT + PAGE, AT + 2 * PAGE, AT + 15 * PAGE] {
            assert!(!place.may_be_in_use_at(stack));
        }
        // Well above it, and not above the 64 KiB that a layout may have.
        assert_eq!(
            place.check(PAGE, MainStack::Stands(AT + 4 * PAGE)),
            Ok(2 * PAGE),
            "all of it is replaced"
        );
        assert_eq!(place.check(PAGE, MainStack::Blocked(AT + 10 * PAGE)), Ok(2 * PAGE));
        for main in [MainStack::Stands(AT + 4 * PAGE - 8), MainStack::Blocked(AT + 10 * PAGE - 8)] {
            assert!(matches!(place.check(PAGE, main), Err(NoPlace::NoRoom(_))), "{main:?}");
        }
    }

    #[test]
    fn a_frame_that_nobody_is_known_to_have_left_is_in_use_up_to_its_last_byte() {
        // Zeros say nothing.
        for in_use in [1, 0, layout::DONE + 1] {
            let place = left(6, in_use);
            for stack in [0x10_0000, AT - 8, AT + 128, AT + PAGE, AT + 6 * PAGE - 8] {
                assert!(place.may_be_in_use_at(stack), "{stack:x}");
                for main in [MainStack::Stands(stack), MainStack::Blocked(stack)] {
                    assert_eq!(place.check(PAGE, main), Err(NoPlace::Unwinding), "{main:?}");
                }
            }
            assert!(!place.may_be_in_use_at(AT + 6 * PAGE) && !place.may_be_in_use_at(0x7f00_0000));
            assert_eq!(place.check(PAGE, MainStack::Stands(AT + 8 * PAGE)), Ok(6 * PAGE));
        }
    }

    #[test]
    fn a_longer_layout_takes_no_page_above_that_was_used() {
        let blocked = MainStack::Blocked(AT + 14 * PAGE);
        assert_eq!(left(2, layout::DONE).check(4 * PAGE, blocked), Ok(4 * PAGE));
        let place = Place { pages: place(&[0, 1, 3]).pages, ..left(2, layout::DONE) };
        assert!(matches!(place.check(4 * PAGE, blocked), Err(NoPlace::NoRoom(_))));
    }

    #[test]
    fn where_frames_may_lie_no_thread_but_the_main_one_has_its_stack() {
        let place = place(&[]);
        assert!(place.is_low(0x10_0000) && place.is_low(AT + 16 * PAGE - 8));
        assert!(!place.is_low(0x10_0000 - 8) && !place.is_low(AT + 16 * PAGE));
    }

    #[test]
    fn a_small_stack_is_none() {
        let stack = Mapping { end: 0x10_0000 + (124 << 10), ..place(&[]).stack };
        let memory = Memory::of(tempfile::tempfile().unwrap());
        assert!(Place::new(memory, 9, stack, tempfile::tempfile().unwrap()).is_err());
    }
}
