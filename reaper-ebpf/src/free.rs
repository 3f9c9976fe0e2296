//! `sched_process_free(task)`: gives the entry back, and says so where the zombie had been reported. It comes
//! from RCU, up to tens of milliseconds after the wait, when the pid may long be somebody else's. Always attached.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use reaper_ebpf::{
    Notice, WORDS, counter, flag, id, notice,
    reap_time::{self, Times},
    state, tgid_of, ticks_between,
};

use crate::{
    atomic::{Keys, Store, Swap},
    kernel::Task,
    ledger::{self, Entry, Released},
    maps::{FORKERS, LOST, REAP_TIMES, add, count},
    notice::send,
};

/// Nanoseconds of a jiffy. Set at load.
#[unsafe(no_mangle)]
static TICK: Global<u64> = Global::new(4_000_000);

/// Jiffies that [`reap_time::PROMPT`] takes. Set at load.
#[unsafe(no_mangle)]
static PROMPT_TICKS: Global<u64> = Global::new(16);

#[btf_tracepoint(function = "sched_process_free")]
fn free(ctx: BtfTracePointContext) {
    give_back::<Swap>(&ctx);
}

#[btf_tracepoint(function = "sched_process_free")]
fn free_plain(ctx: BtfTracePointContext) {
    give_back::<Store>(&ctx);
}

#[inline(always)]
fn give_back<K: Keys>(ctx: &BtfTracePointContext) {
    let task = Task(ctx.arg(0));
    let tgid = task.tgid();
    if task.pid() != tgid {
        return; // a thread, or the old leader after another thread's exec
    }
    let id = id(tgid, task.start());
    let Some(released) = ledger::release::<K>(id, announce) else {
        let _counted: Result<(), i32> = LOST.remove(id);
        return;
    };
    if released.flags & flag::FORKER != 0 {
        let _gone: Result<(), i32> = FORKERS.remove(id);
    }
    // Of one that is alive the exit was missed.
    if released.state != state::ALIVE {
        time(released);
    }
}

/// Says that a reported zombie goes, with all that was recorded of it: the daemon that reported it may be gone, too.
#[inline(always)]
fn announce(id: u64, entry: Option<Entry>) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_boot_ns() };
    let words = entry.map_or([0; WORDS], Entry::words);
    send(Notice { kind: notice::RELEASED, number: tgid_of(id), id, time, words }, counter::RELEASE_LOST);
}

/// Counts how long it stood.
#[inline(always)]
fn time(released: Released) {
    // SAFETY: a helper without arguments.
    let ticks = ticks_between(released.exit, unsafe { bpf_jiffies64() });
    if ticks < PROMPT_TICKS.load() {
        count(counter::PROMPT);
    } else {
        time_slow(ticks, released.cgroup);
    }
}

/// Not inlined: it is rare, and has an entry on its stack.
#[inline(never)]
fn time_slow(ticks: u64, cgroup: u64) {
    let time = ticks.wrapping_mul(TICK.load());
    let bucket = reap_time::bucket(time);
    add(counter::SLOW + bucket, 1);
    add(counter::SLOW_SUM, time);
    let find = || REAP_TIMES.get_ptr_mut(cgroup);
    let Some(times) = find().or_else(|| {
        // Where another CPU has been quicker, it is there all the same.
        let _there: Result<(), i32> = REAP_TIMES.insert(
            cgroup,
            Times { buckets: [0; reap_time::BUCKETS as usize], sum: 0 },
            u64::from(BPF_NOEXIST),
        );
        find()
    }) else {
        return count(counter::SLOW_UNPLACED);
    };
    add_to(times.cast::<u64>().wrapping_add(bucket as usize), 1);
    add_to(times.cast::<u64>().wrapping_add(reap_time::BUCKETS as usize), time);
}

/// Adds to a word that other CPUs add to as well. Relaxed and with the result unused it is the instruction that every
/// kernel takes.
#[inline(always)]
fn add_to(word: *mut u64, more: u64) {
    // SAFETY: the verifier has shown that `word` lies in a map's value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, more) };
}
