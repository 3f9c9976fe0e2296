//! The census: iterators over all tasks. [`census`] enters every process that was there before the hooks, or that a
//! hook has missed, and writes out who is there, so that userspace finds what the ledger has too much; [`zombies`]
//! writes out those that are dead, for a listing without a ledger.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_seq_write};
use reaper_ebpf::{
    Slot, WORD_CGROUP_V1, WORD_CGROUP_V2, WORD_EXEC, WORD_EXIT, WORD_FLAGS, WORD_KEY, WORD_PARENT,
    WORD_PARENT_START, WORDS, counter, exit_word, flag, id, key, pack, seed, start_high, state,
};

use crate::{
    atomic::{Keys, Store, Swap},
    birth, exit,
    kernel::Task,
    ledger::{self, Entry},
    maps::{LOST, SEED, count},
};

/// `struct bpf_iter__task`
#[repr(C)]
pub(crate) struct Iteration {
    meta: *const Meta,
    task: *const c_void,
}

/// `struct bpf_iter_meta`
#[repr(C)]
struct Meta {
    seq: *mut c_void,
}

/// The leader of a thread group at this step, if it is one.
#[inline(always)]
pub(crate) fn leader(iteration: *mut Iteration) -> Option<Task> {
    // SAFETY: the verifier knows the context's layout.
    let task = unsafe { (*iteration).task };
    if task.is_null() {
        return None;
    }
    let task = Task(task);
    (task.pid() == task.tgid()).then_some(task)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn census(iteration: *mut Iteration) -> i32 {
    enter::<Swap>(iteration)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn census_plain(iteration: *mut Iteration) -> i32 {
    enter::<Store>(iteration)
}

/// Writes out every process's key, and puts right what the ledger does not know of those that are old enough.
#[inline(always)]
fn enter<K: Keys>(iteration: *mut Iteration) -> i32 {
    let Some(task) = leader(iteration) else { return 0 };
    let (start, dead) = (task.start(), task.live() == 0);
    let id = id(task.tgid(), start);
    let mut seen = key(if dead { state::DEAD } else { state::ALIVE }, id);
    write(iteration, &raw mut seen);

    let Some(&before) = SEED.get(seed::BEFORE) else { return 0 };
    let Some(&more) = SEED.get(seed::FLAGS) else { return 0 };
    if start < before {
        put_right::<K>(task, id, start, dead, more);
    }
    0
}

#[inline(always)]
fn put_right<K: Keys>(task: Task, id: u64, start: u64, dead: bool, orders: u64) {
    let more = (orders & 0xffff_ffff) as u32;
    if let Some(entry) = ledger::find(id) {
        // One that is in its exit right now is the exit hook's.
        if dead && entry.state() == state::ALIVE && task.has_exited() {
            exit::fill(entry, task);
            entry.add_flags(flag::PREDATES_EXIT | more);
            entry.publish::<K>(key(state::DEAD, id));
            missed(orders);
        }
        return;
    }
    if let Some(entry) = ledger::claim::<K>(id) {
        return born::<K>(entry, task, id, start, dead, orders);
    }
    if !dead {
        // A later pass finds the same ones again.
        if orders & seed::FIRST != 0 {
            count(counter::FORK_UNRECORDED);
        }
        return;
    }
    match ledger::displace::<K>(id) {
        Some(entry) => born::<K>(entry, task, id, start, dead, orders),
        None => exit::lose(id, false),
    }
}

/// Counts what a hook should have recorded.
#[inline(always)]
fn missed(orders: u64) {
    if orders & seed::FIRST == 0 {
        count(counter::HOOK_MISSED);
    }
}

#[inline(always)]
fn born<K: Keys>(entry: Entry, task: Task, id: u64, start: u64, dead: bool, orders: u64) {
    birth::parent(entry, task, start);
    missed(orders);
    let more = (orders & 0xffff_ffff) as u32 | flag::PREDATES_FORK;
    if dead {
        let _counted: Result<(), i32> = LOST.remove(id);
        birth::rest(entry, task, more | flag::PREDATES_EXIT);
        exit::fill(entry, task);
        entry.publish::<K>(key(state::DEAD, id));
    } else {
        birth::rest(entry, task, more);
    }
}

/// Writes a value out, to whoever reads the iterator.
#[inline(always)]
pub(crate) fn write<T>(iteration: *mut Iteration, value: *mut T) {
    // SAFETY: the value is on the stack and as long as its type; the verifier knows `seq`.
    unsafe {
        bpf_seq_write((*(*iteration).meta).seq.cast(), value.cast(), bytes::<T>());
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn zombies(iteration: *mut Iteration) -> i32 {
    let Some(task) = leader(iteration) else { return 0 };
    if task.live() != 0 {
        return 0;
    }
    let start = task.start();
    let parent = task.real_parent();
    let flags = flag::PREDATES_FORK | flag::PREDATES_EXIT;
    let mut slot = Slot { words: [0; WORDS] };
    slot.words[WORD_KEY] = key(state::DEAD, id(task.tgid(), start));
    slot.words[WORD_PARENT_START] = parent.leader().start();
    slot.words[WORD_PARENT] = pack(start_high(start), parent.tgid());
    slot.words[WORD_EXEC] = pack(task.parent_exec_id(), task.exec_id());
    slot.words[WORD_EXIT] = exit_word(0, task.wait_status());
    slot.words[WORD_CGROUP_V2] = task.cgroup_v2();
    slot.words[WORD_CGROUP_V1] = task.cgroup_v1();
    slot.words[WORD_FLAGS] = pack(flags, task.pid_namespace().0);
    write(iteration, &raw mut slot);
    0
}

/// Writes jiffies and the boot clock of one moment, so that userspace can tell one from the other. It reads
/// sixteen bytes and closes: the iterator stops after the first task.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn anchor(iteration: *mut Iteration) -> i32 {
    // SAFETY: helpers without arguments.
    let mut pair = unsafe { [bpf_jiffies64(), bpf_ktime_get_boot_ns()] };
    write(iteration, &raw mut pair);
    0
}

/// A size as the kernel's helpers take it.
#[expect(clippy::cast_possible_truncation, reason = "what fits on a BPF program's stack")]
const fn bytes<T>() -> u32 {
    size_of::<T>() as u32
}
