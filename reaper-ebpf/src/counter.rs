//! Places in the per-CPU array of counters.

/// A death that found no room: a zombie from it cannot be reported.
pub const DEATH_LOST: u32 = 0;
/// A fork that found no room. Its death is entered if there is room then; its parent at fork is unknown.
pub const FORK_UNRECORDED: u32 = 1;
/// Entries put into the overflow map.
pub const OVERFLOW_IN: u32 = 2;
/// Entries taken out of the overflow map.
pub const OVERFLOW_OUT: u32 = 3;
/// A release that could not be announced because the ring buffer was full.
pub const RELEASE_LOST: u32 = 4;
/// A new cgroup that could not be announced because the ring buffer was full.
pub const CGROUP_LOST: u32 = 5;
/// A living process's entry that was given to a dead one. Its own death is entered if there is room then; its
/// parent at fork is unknown.
pub const LIVING_DISPLACED: u32 = 6;
/// What a later census has entered or marked dead: a hook had missed it.
pub const HOOK_MISSED: u32 = 7;
/// A release that was seen when it happened, but could not be read or announced.
pub const REAP_LOST: u32 = 8;
/// A wait call of a holder on probation whose number found no room: what it asked for is not known.
pub const AWAITED_LOST: u32 = 9;
/// Processes that left something behind for their descendants.
pub const ANCESTOR_IN: u32 = 10;
/// One that should have, and found no room.
pub const ANCESTOR_LOST: u32 = 11;
/// A stack, or an executable that was to be looked at, found no room in the ring buffer.
pub const STACK_LOST: u32 = 12;
/// A process whose forks were to be looked at more closely, and there was no room for it.
pub const FOLLOWED_LOST: u32 = 13;
/// A fork by a process of which it was not known yet whether it is an interpreter.
pub const FORK_EARLY: u32 = 14;
/// A fork by an interpreter whose stack was not there or could not be read.
pub const STACK_MISSED: u32 = 15;
/// A fork whose native stack was not copied because there were too many in a short time.
pub const STACK_LIMITED: u32 = 16;
/// Processes that were freed within [`crate::reap_time::PROMPT`] of their death.
pub const PROMPT: u32 = 17;
/// From here on, those that stood longer, by [`crate::reap_time::bucket`].
pub const SLOW: u32 = 18;
/// How long those stood, all together, nanoseconds.
pub const SLOW_SUM: u32 = 30;
/// Those of them that are counted for the machine only, because there was no room for another cgroup.
pub const SLOW_UNPLACED: u32 = 31;
/// A refused fork that could not be read, counted or announced.
pub const REFUSED_LOST: u32 = 32;
/// How many there are.
pub const COUNT: u32 = 33;
