//! The maps. Sizes marked "set at load" are replaced by userspace before the object is loaded.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf},
};
use reaper_ebpf::{
    ANCESTORS_KEPT, Ancestor, Awaited, Cmdline, Forker, Group, Slot, WaitProfile, counter,
    interpreter::{Executable, Followed, RING_BYTES, Scratch, Verdict, stage, wake},
    meta, native, notice,
    reap_time::{self, Times},
    refused::{self, Tally, Who},
    seed,
};

/// The ledger: plane after plane, so that consecutive pids lie in consecutive cache lines. Set at load.
#[map]
pub(crate) static LEDGER: Array<Slot> = Array::with_max_entries(131_072, BPF_F_MMAPABLE);

/// Processes whose set was full, by identity bits. Set at load.
#[map]
pub(crate) static OVERFLOW: HashMap<u64, Slot> = HashMap::with_max_entries(16_384, 0);

/// Forkers that are not the parent (CLONE_PARENT), by the child's identity bits.
#[map]
pub(crate) static FORKERS: LruHashMap<u64, Forker> = LruHashMap::with_max_entries(4_096, 0);

/// Holders on probation, by tgid. Userspace adds and removes.
#[map]
pub(crate) static WATCHED: HashMap<u32, WaitProfile> = HashMap::with_max_entries(1_024, BPF_F_NO_PREALLOC);

/// The numbers that holders on probation have asked for, by holder and number. Userspace
/// takes out those that are nobody's any more. Not least recently used: nothing may be forgotten in silence.
#[map]
pub(crate) static AWAITED: HashMap<u64, Awaited> = HashMap::with_max_entries(8_192, 0);

/// Who died last under a tgid. Kernels before 5.11 only: see `signal`.
#[map]
pub(crate) static DYING: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4_096, 0);

/// The dead that found no room and are not freed yet, by identity bits, so that none is counted twice: far more than may
/// stand before a ledger of the default size is full.
#[map]
pub(crate) static LOST: HashMap<u64, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Command lines taken at exec, by identity bits.
#[map]
pub(crate) static CMDLINES: LruHashMap<u64, Cmdline> = LruHashMap::with_max_entries(2_048, 0);

/// Where a command line is put together: it is larger than the stack.
#[map]
pub(crate) static CMDLINE_SCRATCH: PerCpuArray<Cmdline> = PerCpuArray::with_max_entries(1, 0);

/// Dead processes that have descendants, by identity bits. Userspace takes out those whose last descendant is gone. Not
/// least recently used: nothing may be forgotten in silence.
#[map]
pub(crate) static ANCESTORS: HashMap<u64, Ancestor> = HashMap::with_max_entries(ANCESTORS_KEPT, 0);

/// Where one is put together: it is larger than the stack.
#[map]
pub(crate) static ANCESTOR_SCRATCH: PerCpuArray<Ancestor> = PerCpuArray::with_max_entries(1, 0);

/// Processes whose forks are looked at more closely, by tgid.
#[map]
pub(crate) static FOLLOWED: HashMap<u32, Followed> = HashMap::with_max_entries(8_192, 0);

/// What is known of executable files. Userspace adds and removes.
#[map]
pub(crate) static EXECUTABLES: HashMap<Executable, Verdict> = HashMap::with_max_entries(8_192, 0);

/// What follows the fork program for a process that is followed: the places are `reaper_ebpf::interpreter::stage`. Userspace
/// puts there what the kernel takes.
#[map]
pub(crate) static FORK_STAGES: ProgramArray = ProgramArray::with_max_entries(stage::COUNT, 0);

/// Of whom native stacks are copied, by `reaper_ebpf::native::mode`: one word. Userspace sets it.
#[map]
pub(crate) static COPYING: Array<u64> = Array::with_max_entries(1, 0);

/// Whose native stacks are copied, where not everybody's. Userspace adds and removes.
#[map]
pub(crate) static PROBATION: HashMap<Group, u64> = HashMap::with_max_entries(1_024, BPF_F_NO_PREALLOC);

/// Until when the native stacks of a process are spoken for, by tgid.
#[map]
pub(crate) static COPIED: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1_024, 0);

/// Where a native stack is put together, by CPU: larger than a per-CPU value may be. Set at load.
#[map]
pub(crate) static COPY_SCRATCH: Array<native::Scratch> = Array::with_max_entries(1, 0);

/// Native stacks at forks.
#[map]
pub(crate) static NATIVES: RingBuf = RingBuf::with_byte_size(native::RING_BYTES, 0);

/// What follows the exit program where a dead process has descendants: takes its command line. Userspace puts it there
/// where the kernel takes it.
#[map]
pub(crate) static EXIT_STAGES: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Stacks at forks, and executables to be looked at.
#[map]
pub(crate) static ORIGINS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// When userspace was last woken for the ring buffer above, by `reaper_ebpf::interpreter::wake`.
#[map]
pub(crate) static WAKES: Array<u64> = Array::with_max_entries(wake::COUNT, 0);

/// Where a stack is put together: it is larger than the stack.
#[map]
pub(crate) static STACK_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Where a tracepoint's argument is laid down to be tested as a number. See `wait`.
#[map]
pub(crate) static ARGUMENT_SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What the census is to do: the places are `reaper_ebpf::seed`.
#[map]
pub(crate) static SEED: Array<u64> = Array::with_max_entries(seed::COUNT, 0);

/// Whose these maps are, for a daemon that finds them pinned: the places are `reaper_ebpf::meta`.
#[map]
pub(crate) static META: Array<u64> = Array::with_max_entries(meta::COUNT, 0);

/// How long the dead of each cgroup stood, by the id of v2: those that were not waited for at once. Userspace takes out
/// the cgroups that are gone. Not least recently used: nothing may be forgotten in silence.
#[map]
pub(crate) static REAP_TIMES: HashMap<u64, Times> = HashMap::with_max_entries(reap_time::CGROUPS, 0);

/// How many forks were refused of whom. Userspace takes out those of whom none was for long. Not least recently used:
/// nothing may be forgotten in silence.
#[map]
pub(crate) static REFUSED: PerCpuHashMap<Who, Tally> = PerCpuHashMap::with_max_entries(refused::KEPT, 0);

/// Releases of reported zombies, new cgroups, refused forks.
#[map]
pub(crate) static NOTICES: RingBuf = RingBuf::with_byte_size(notice::RING_BYTES, 0);

/// What was lost, and what userspace must know to skip work: the places are `reaper_ebpf::counter`.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn count(counter: u32) {
    add(counter, 1);
}

/// Adds to a counter.
#[inline(always)]
pub(crate) fn add(counter: u32, more: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the pointer was checked, and a per-CPU value has one writer unless an interrupt's program
        // counts the same thing, which costs one count.
        unsafe { *value += more };
    }
}
