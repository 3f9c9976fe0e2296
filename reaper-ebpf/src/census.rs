//! The census: iterators over all tasks. [`seed`] enters every process that was there before the hooks;
//! [`zombies`] writes out those that are dead, for a listing without a ledger.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_seq_write};
use reaper_ebpf::{
    Slot, WORD_CGROUP_V1, WORD_CGROUP_V2, WORD_EXEC, WORD_EXIT, WORD_FLAGS, WORD_KEY, WORD_PARENT,
    WORD_PARENT_START, WORDS, counter, exit_word, flag, id, key, pack, start_high, state,
};

use crate::{
    atomic::{Keys, Store, Swap},
    exit,
    kernel::Task,
    ledger,
    maps::{SEED_BEFORE, count},
};

/// `struct bpf_iter__task`
#[repr(C)]
struct Iteration {
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
fn leader(iteration: *mut Iteration) -> Option<Task> {
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
extern "C" fn seed(iteration: *mut Iteration) -> i32 {
    enter::<Swap>(iteration)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn seed_plain(iteration: *mut Iteration) -> i32 {
    enter::<Store>(iteration)
}

#[inline(always)]
fn enter<K: Keys>(iteration: *mut Iteration) -> i32 {
    let Some(task) = leader(iteration) else { return 0 };
    let Some(before) = SEED_BEFORE.get(0) else { return 0 };
    let start = task.start();
    if start >= *before {
        return 0;
    }
    let id = id(task.tgid(), start);
    let dead = task.live() == 0;
    if ledger::find(id).is_some() {
        return 0;
    }
    let Some(entry) = ledger::claim::<K>(id) else {
        count(if dead { counter::DEATH_LOST } else { counter::FORK_UNRECORDED });
        return 0;
    };
    let parent = task.real_parent();
    entry.set(WORD_PARENT_START, parent.leader().start());
    entry.set(WORD_PARENT, pack(start_high(start), parent.tgid()));
    entry.set(WORD_EXEC, pack(task.parent_exec_id(), task.exec_id()));
    entry.set(WORD_FLAGS, pack(flag::PREDATES_FORK, 0));
    if dead {
        exit::fill(entry, task, flag::PREDATES_EXIT);
        entry.publish::<K>(key(state::DEAD, id));
    }
    0
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
    // SAFETY: the slot is on the stack and 64 bytes long; the verifier knows `seq`.
    unsafe {
        bpf_seq_write((*(*iteration).meta).seq.cast(), (&raw mut slot).cast(), size_of::<Slot>() as u32);
    }
    0
}

/// Writes jiffies and the boot clock of one moment, so that userspace can tell one from the other. It reads
/// sixteen bytes and closes: the iterator stops after the first task.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn anchor(iteration: *mut Iteration) -> i32 {
    // SAFETY: helpers without arguments; the pair is on the stack; the verifier knows `seq`.
    unsafe {
        let mut pair = [bpf_jiffies64(), bpf_ktime_get_boot_ns()];
        bpf_seq_write((*(*iteration).meta).seq.cast(), (&raw mut pair).cast(), size_of::<[u64; 2]>() as u32);
    }
    0
}
