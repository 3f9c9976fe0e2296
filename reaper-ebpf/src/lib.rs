//! What the two sides of the kernel boundary agree on: the ledger's slot, the ring buffer's notices, the
//! wait profile and the counters. No dependencies, no padding, sizes asserted at compile time.
//!
//! # The ledger's slot
//!
//! One cache line a process. Every word is written whole, so that no reader sees half a field.
//!
//! | word | bits 63…0 | written |
//! |---|---|---|
//! | 0 | state 2 · tgid 22 · low 40 bits of the start time | fork (claimed by compare-and-swap), exit and free (exchanged) |
//! | 1 | start time of the parent at fork, ns since boot | fork |
//! | 2 | high 24 bits of the start time, in 32 · tgid of the parent at fork, 32 | fork |
//! | 3 | exec id that the parent had at fork, 32 · own exec id, 32 | fork; the low half again at exec |
//! | 4 | exit stamp in jiffies, 48 · wait status, 16 | exit |
//! | 5 | cgroup id in the v2 hierarchy | exit |
//! | 6 | cgroup id in the v1 pids hierarchy | only in what the census writes out; 0 in the ledger |
//! | 7 | flags, 32 · inode number of the pid namespace, 32 | fork, SIGCHLD |
//!
//! The v1 cgroup id is not in the ledger because the walk to it costs every healthy process 100 to 300 ns, while a
//! zombie keeps its cgroups: where there is a v1 hierarchy, those that are to be reported are asked for it.
//!
//! All times are on the boot clock, in nanoseconds, unless they are called stamps (jiffies).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod counter;
pub mod interpreter;
pub mod member;
pub mod native;
pub mod reap_time;
pub mod refused;

/// Version of everything in this file. Two sides with different numbers must not share a map.
pub const ABI: u32 = 10;

/// Slots in a set. A process may only be in the four slots of its set, or in the overflow map.
pub const WAYS: u32 = 4;

/// Words in a slot.
pub const WORDS: usize = 8;

/// Word 0 of a slot: who, and in which state.
pub const WORD_KEY: usize = 0;
/// Word 1: start time of the parent at fork.
pub const WORD_PARENT_START: usize = 1;
/// Word 2: high part of the start time and the parent's tgid.
pub const WORD_PARENT: usize = 2;
/// Word 3: exec ids.
pub const WORD_EXEC: usize = 3;
/// Word 4: exit stamp and wait status.
pub const WORD_EXIT: usize = 4;
/// Word 5: cgroup id in the v2 hierarchy.
pub const WORD_CGROUP_V2: usize = 5;
/// Word 6: cgroup id in the v1 pids hierarchy.
pub const WORD_CGROUP_V1: usize = 6;
/// Word 7: flags and pid namespace.
pub const WORD_FLAGS: usize = 7;

/// The state of a slot, the two highest bits of its key.
pub mod state {
    /// Nobody's.
    pub const FREE: u64 = 0;
    /// A living process.
    pub const ALIVE: u64 = 1;
    /// A thread group whose last thread has passed the exit hook. Not yet known to be a zombie.
    pub const DEAD: u64 = 2;
    /// A dead one that userspace has reported: its release is announced in the ring buffer.
    pub const STANDING: u64 = 3;
}

/// Flags of a slot, the high half of word 7.
pub mod flag {
    /// SIGCHLD's result, two bits: one of the `SIGCHLD_*` values.
    pub const SIGCHLD_MASK: u32 = 0b11;
    /// No SIGCHLD was seen for this death.
    pub const SIGCHLD_NONE: u32 = 0;
    /// It was queued.
    pub const SIGCHLD_DELIVERED: u32 = 1;
    /// The parent's disposition ignores it (no handler).
    pub const SIGCHLD_IGNORED: u32 = 2;
    /// One was pending already: this one was merged into it.
    pub const SIGCHLD_COALESCED: u32 = 3;
    /// The forker differs from the parent at fork and is in the forkers map.
    pub const FORKER: u32 = 1 << 2;
    /// It was the first process of its pid namespace.
    pub const NAMESPACE_INIT: u32 = 1 << 3;
    /// Entered by the census: it was forked before the hooks were there.
    pub const PREDATES_FORK: u32 = 1 << 4;
    /// Entered by the census when it was dead already: its exit stamp is the census's.
    pub const PREDATES_EXIT: u32 = 1 << 5;
    /// Entered at exit: its fork was not recorded.
    pub const FORK_UNSEEN: u32 = 1 << 6;
    /// Entered or marked dead by a later census, because a hook had missed it.
    pub const RECOVERED: u32 = 1 << 7;
    /// Set by userspace: its report has been written out.
    pub const TOLD: u32 = 1 << 8;
    /// It may have descendants that do not show in the kernel's lists of its children: one of its other threads forked, or
    /// one that it forked with CLONE_PARENT, or one that died and left descendants of its own.
    pub const FOREBEAR: u32 = 1 << 9;
    /// It may be in the map of processes whose forks are looked at more closely.
    pub const FOLLOWED: u32 = 1 << 10;
}

const START_BITS: u32 = 40;
const START_MASK: u64 = (1 << START_BITS) - 1;
const TGID_MASK: u64 = (1 << 22) - 1;
const STATE_SHIFT: u32 = 62;

/// The bits of a key that say who: all but the state.
pub const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;

/// The identity bits of a process: its tgid and the low 40 bits of its start time (18 minutes, so that two
/// lives of a pid cannot share it unless they start on the same nanosecond of such a span).
#[must_use]
#[inline(always)]
pub const fn id(tgid: u32, start: u64) -> u64 {
    ((tgid as u64 & TGID_MASK) << START_BITS) | (start & START_MASK)
}

/// Processes that are in the same cgroup in both hierarchies that are recorded. Where the pids controller is on a v1 hierarchy,
/// the cgroup of v2 may be the whole machine's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Group {
    /// Id in the v2 hierarchy.
    pub v2: u64,
    /// Id in the v1 pids hierarchy, 0 where there is none.
    pub v1: u64,
}

/// A key: identity bits in a state.
#[must_use]
#[inline(always)]
pub const fn key(state: u64, id: u64) -> u64 {
    (state << STATE_SHIFT) | id
}

/// The state in a key.
#[must_use]
#[inline(always)]
pub const fn state_of(key: u64) -> u64 {
    key >> STATE_SHIFT
}

/// The tgid in a key.
#[must_use]
#[inline(always)]
pub const fn tgid_of(key: u64) -> u32 {
    ((key >> START_BITS) & TGID_MASK) as u32
}

/// What a start time has above the bits in the key.
#[must_use]
#[inline(always)]
pub const fn start_high(start: u64) -> u32 {
    (start >> START_BITS) as u32
}

/// A start time from its two parts: the words [`WORD_KEY`] and [`WORD_PARENT`] of a slot.
#[must_use]
#[inline(always)]
pub const fn start_of(key: u64, parent: u64) -> u64 {
    ((parent >> 32) << START_BITS) | (key & START_MASK)
}

/// Two halves in a word.
#[must_use]
#[inline(always)]
pub const fn pack(high: u32, low: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

/// The exit word: jiffies (their low 48 bits) and the wait status.
#[must_use]
#[inline(always)]
pub const fn exit_word(jiffies: u64, status: u32) -> u64 {
    (jiffies << 16) | (status as u64 & 0xffff)
}

/// Jiffies from the ones in an exit word to `now`.
#[must_use]
#[inline(always)]
pub const fn ticks_between(exit: u64, now: u64) -> u64 {
    // Both in 48 bits. Another CPU's may be a tick ahead.
    let ticks = (now << 16).wrapping_sub(exit & !0xffff);
    if ticks.cast_signed() < 0 { 0 } else { ticks >> 16 }
}

/// A slot, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Word 0 as it was read.
    pub key: u64,
    /// Start of the thread group's leader, ns since boot.
    pub start: u64,
    /// The parent when it was forked. 0 where the fork was not seen.
    pub parent_tgid: u32,
    /// That parent's start, ns since boot. 0 where the fork was not seen.
    pub parent_start: u64,
    /// How often this process had exec'ed, on the kernel's own counter, which children inherit.
    pub exec_id: u32,
    /// The parent's counter when this process was forked.
    pub parent_exec_id: u32,
    /// Jiffies at exit, 48 bits.
    pub exit_stamp: u64,
    /// Wait status as wait4 would return it.
    pub status: u16,
    /// cgroup id in the v2 hierarchy.
    pub cgroup_v2: u64,
    /// cgroup id in the v1 pids hierarchy, from the census only; 0 where there is none.
    pub cgroup_v1: u64,
    /// Inode number of its pid namespace. 0 where its fork was missed and it is dead.
    pub pid_ns: u32,
    /// Bits of [`flag`].
    pub flags: u32,
}

impl Record {
    /// Decodes the words of a slot.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        let [key, parent_start, parent, exec, exit, cgroup_v2, cgroup_v1, flags] = words;
        Self {
            key,
            start: start_of(key, parent),
            parent_tgid: low(parent),
            parent_start,
            exec_id: low(exec),
            parent_exec_id: high(exec),
            exit_stamp: exit >> 16,
            status: (exit & 0xffff) as u16,
            cgroup_v2,
            cgroup_v1,
            pid_ns: low(flags),
            flags: high(flags),
        }
    }

    /// The thread group's id.
    #[must_use]
    pub const fn tgid(&self) -> u32 {
        tgid_of(self.key)
    }

    /// One of [`state`].
    #[must_use]
    pub const fn state(&self) -> u64 {
        state_of(self.key)
    }

    /// The identity bits.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.key & ID_MASK
    }
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// A slot as it lies in the map.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Slot {
    /// See the table in the crate's documentation.
    pub words: [u64; WORDS],
}

/// What a notice in the ring buffer is about.
pub mod notice {
    /// Bytes of the ring buffer.
    pub const RING_BYTES: u32 = 1 << 20;
    /// A reported zombie was released: `number` is its tgid, `id` its identity bits, `time` the boot clock
    /// when the kernel freed it (RCU: up to tens of ms after the wait), `words` the slot that it had, or zeros where it was
    /// reported in that very moment.
    pub const RELEASED: u32 = 1;
    /// A cgroup was made: `number` is its hierarchy, `id` its id there.
    pub const CGROUP_MADE: u32 = 2;
    /// A reported zombie is being released: `id` is its identity bits, `time` the boot clock, `number` the tgid and
    /// the first two `words` the thread's name of whoever does it. [`RELEASED`] follows. Only while the optional hook is attached.
    pub const REAPED: u32 = 3;
    /// A fork was refused: `number` is the tgid of whoever tried, `id` its leader's start, `time` the boot clock, `words` as
    /// [`super::refused`] lays them out. Not of every one: see there. Only while the optional hook is attached.
    pub const REFUSED: u32 = 4;
}

/// A record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// One of [`notice`].
    pub kind: u32,
    /// See the kind.
    pub number: u32,
    /// See the kind.
    pub id: u64,
    /// ns since boot.
    pub time: u64,
    /// See the kind; zeros where it says nothing of them.
    pub words: [u64; WORDS],
}

/// The forker of a process whose parent at fork is somebody else (CLONE_PARENT).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forker {
    /// The thread group that called clone.
    pub tgid: u32,
    /// Always zero: no padding.
    pub zero: u32,
    /// Its leader's start, ns since boot.
    pub start: u64,
}

/// What a holder on probation was seen waiting for. Counted from the moment it went on probation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitProfile {
    /// Start of the holder, ns since boot: the profile is void for another life of the pid.
    pub start: u64,
    /// Wait calls for any child.
    pub any: u64,
    /// Wait calls for one pid or one process group.
    pub one: u64,
    /// Boot clock at the latest wait call.
    pub last: u64,
    /// What the latest call of the second kind asked for, as the initial pid namespace numbers it.
    pub last_number: u32,
    /// Different numbers that were asked for and entered among those awaited ([`awaited`]); it only grows.
    pub numbers: u32,
    /// Calls whose number found no room there.
    pub lost: u64,
}

/// When a number that a holder on probation has asked for was last asked for, ns since boot; 0 for never.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    /// As a pid.
    pub as_pid: u64,
    /// As a process group.
    pub as_group: u64,
}

/// The key of a number that a holder on probation has asked for: the holder's tgid, then the pid or process group as the
/// initial pid namespace numbers it.
#[must_use]
#[inline(always)]
pub const fn awaited(holder: u32, number: u32) -> u64 {
    pack(holder, number)
}

/// Bytes of a command line that are kept.
pub const CMDLINE_BYTES: usize = 256;

/// A command line as it was at exec.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Cmdline {
    /// Bytes used.
    pub len: u32,
    /// 1 where the command line was longer.
    pub cut: u32,
    /// Arguments, each ended by a zero byte.
    pub bytes: [u8; CMDLINE_BYTES],
}

/// Dead processes with descendants that are kept.
pub const ANCESTORS_KEPT: u32 = 4_096;

/// What is left of a process that died while it had descendants.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ancestor {
    /// Start of its leader, ns since boot.
    pub start: u64,
    /// Start of its forker, ns since boot. 0 where its fork was not seen.
    pub forker_start: u64,
    /// Its forker. 0 where its fork was not seen.
    pub forker_tgid: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Its name when it died, ended by a zero byte.
    pub comm: [u64; 2],
    /// Its command line when it died. Empty where the kernel tells of a death only when the memory is gone (before 6.16).
    pub cmdline: Cmdline,
}

/// Places in the array that tells the census what to do.
pub mod seed {
    /// Only processes that started before this moment (boot clock, ns) are entered: whatever is younger has the fork
    /// hook.
    pub const BEFORE: u32 = 0;
    /// Flags for those that are entered ([`super::flag::RECOVERED`], or none), with [`FIRST`] or without.
    pub const FLAGS: u32 = 1;
    /// The hooks were attached only now: no hook has missed what is found.
    pub const FIRST: u64 = 1 << 32;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Places in the array that says whose a set of maps is.
pub mod meta {
    /// Of the object and all it was loaded with. Not 0 once everything is attached and entered.
    pub const FINGERPRINT: u32 = 0;
    /// Of the ids of its maps.
    pub const MAPS: u32 = 1;
    /// From here on, what of each counter has been reported: a counter outlives the daemon that reports it.
    pub const SAID: u32 = 2;
    /// Behind those, what of the kernel's own count of skipped programs has been.
    pub const SKIPPED_SAID: u32 = SAID + super::counter::COUNT;
    /// From here on, what of each counter another set of maps had counted that nobody had reported when it was replaced.
    pub const CARRIED: u32 = SKIPPED_SAID + 1;
    /// How many of the refused forks that the hook has counted were told of.
    pub const REFUSED_TOLD: u32 = CARRIED + super::counter::COUNT;
    /// How many there are.
    pub const COUNT: u32 = REFUSED_TOLD + 1;
}

const _: () = assert!(size_of::<Slot>() == 64);
const _: () = assert!(size_of::<Notice>() == 88);
const _: () = assert!(size_of::<Forker>() == 16);
const _: () = assert!(size_of::<WaitProfile>() == 48);
const _: () = assert!(size_of::<Awaited>() == 16);
const _: () = assert!(size_of::<Cmdline>() == 264);
const _: () = assert!(size_of::<Ancestor>() == 304);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_survives_the_key_and_its_high_part() {
        let start = 0x00ab_cdef_1234_5678_u64;
        let mut words = [0; WORDS];
        words[WORD_KEY] = key(state::DEAD, id(4_194_303, start));
        words[WORD_PARENT] = pack(start_high(start), 17);
        let record = Record::from_words(words);
        assert_eq!((record.tgid(), record.state(), record.start), (4_194_303, state::DEAD, start));
        assert_eq!(record.parent_tgid, 17);
    }

    #[test]
    fn two_lives_of_a_pid_differ_in_their_identity() {
        assert_ne!(id(7, 1_000), id(7, 1_001));
        assert_ne!(id(7, 1_000), id(8, 1_000));
        assert_eq!(key(state::ALIVE, id(7, 1_000)) & ID_MASK, key(state::DEAD, id(7, 1_000)) & ID_MASK);
    }

    #[test]
    fn the_exit_word_holds_a_core_dump_bit_and_years_of_jiffies() {
        let mut words = [0; WORDS];
        words[WORD_EXIT] = exit_word(0x0000_ffff_6789_abcd, 0x8b);
        let record = Record::from_words(words);
        assert_eq!((record.exit_stamp, record.status), (0xffff_6789_abcd, 0x8b));
    }

    #[test]
    fn ticks_are_counted_over_the_end_of_their_bits_and_not_backwards() {
        let exit = exit_word(0xffff_ffff_fff0, 0x8b);
        assert_eq!(ticks_between(exit, 0x0001_0000_0000_0002), 18);
        assert_eq!(ticks_between(exit, 0xffff_ffff_fff0), 0);
        assert_eq!(ticks_between(exit, 0xffff_ffff_ffef), 0);
    }
}
