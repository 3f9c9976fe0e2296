use reaper_ebpf::{WORDS, exit_word, id, key, pack, state};

use super::*;
use crate::observe::Neighbour;

const CHILD: (u32, u64) = (100, 5_000_000_000);
const HOLDER: (u32, u64) = (10, 1_000_000_000);

fn record(parent: (u32, u64), parent_exec_id: u32, flags: u32) -> Record {
    let mut words = [0; WORDS];
    words[0] = key(state::DEAD, id(CHILD.0, CHILD.1));
    words[1] = parent.1;
    words[2] = pack(reaper_ebpf::start_high(CHILD.1), parent.0);
    words[3] = pack(parent_exec_id, parent_exec_id + 1);
    words[4] = exit_word(1, 0);
    words[7] = pack(flags, 4_026_531_836);
    Record::from_words(words)
}

fn seen(who: (u32, u64), parent: u32, state: char) -> Seen {
    Seen {
        tgid: who.0,
        comm: "x".into(),
        state,
        parent,
        start_ticks: ticks(BootTime(who.1)),
        tracer: None,
        ns_pids: vec![who.0],
        group: 0,
        uid: 0,
        kernel_thread: false,
        handles_sigchld: false,
        heeds_sigchld: false,
        threads: 1,
        switches: 9,
    }
}

fn scene(holder: (u32, u64), holder_state: char) -> Scene {
    Scene {
        zombie: seen(CHILD, holder.0, 'Z'),
        holder: Neighbour { pid: holder.0, seen: Some((seen(holder, 1, holder_state), None)) },
        forker: None,
        ancestors: Vec::new(),
        tracer: None,
    }
}

fn facts(exec_id: u32) -> Facts {
    let mut words = [0; WORDS];
    words[0] = key(state::ALIVE, id(HOLDER.0, HOLDER.1));
    words[3] = pack(1, exec_id);
    Facts { holder: Some(Record::from_words(words)), ..Facts::default() }
}

fn cause(record: &Record, scene: &Scene, facts: &Facts) -> Cause {
    judge(record, scene, facts).0
}

#[test]
fn a_child_of_a_holder_that_does_not_wait_was_never_waited_for() {
    assert_eq!(cause(&record(HOLDER, 3, 0), &scene(HOLDER, 'S'), &facts(3)), Cause::NeverWaited);
}

#[test]
fn a_holder_that_exec_ed_since_the_fork_inherited_it() {
    assert_eq!(cause(&record(HOLDER, 3, 0), &scene(HOLDER, 'S'), &facts(4)), Cause::Inherited);
}

#[test]
fn a_child_whose_holder_is_not_its_parent_at_fork_was_adopted() {
    let orphan = record((77, 4_000_000_000), 9, 0);
    let (cause, evidence) = judge(&orphan, &scene(HOLDER, 'S'), &facts(3));
    assert_eq!(cause, Cause::Adopted);
    assert_eq!(evidence.parent_at_fork.map(|parent| parent.pid), Some(77));
    assert_eq!(evidence.holder_exec_since_fork, None);
}

#[test]
fn a_parent_whose_pid_was_reused_by_the_holder_is_another_process() {
    let reused = record((HOLDER.0, 500_000_000), 3, 0);
    assert_eq!(cause(&reused, &scene(HOLDER, 'S'), &facts(3)), Cause::Adopted);
}

#[test]
fn a_stopped_holder_comes_before_what_it_would_otherwise_be() {
    let orphan = record((77, 4_000_000_000), 9, 0);
    assert_eq!(cause(&orphan, &scene(HOLDER, 'T'), &facts(3)), Cause::HolderStopped);
    assert_eq!(cause(&orphan, &scene(HOLDER, 't'), &facts(3)), Cause::HolderStopped);
}

#[test]
fn uninterruptible_sleep_must_be_seen_twice() {
    let record = record(HOLDER, 3, 0);
    assert_eq!(cause(&record, &scene(HOLDER, 'D'), &facts(3)), Cause::NeverWaited);
    let twice = |switches| Facts { at_probation: Some(Look { state: 'D', switches }), ..facts(3) };
    assert_eq!(cause(&record, &scene(HOLDER, 'D'), &twice(9)), Cause::HolderStopped);
    assert_eq!(cause(&record, &scene(HOLDER, 'D'), &twice(8)), Cause::NeverWaited, "it has run in between");
}

#[test]
fn a_tracer_comes_first_unless_it_is_the_holder_itself() {
    let mut traced = scene(HOLDER, 'T');
    traced.tracer = Some(Neighbour { pid: 55, seen: None });
    let (cause_found, evidence) = judge(&record(HOLDER, 3, 0), &traced, &facts(3));
    assert_eq!((cause_found, evidence.tracer.map(|tracer| tracer.pid)), (Cause::HeldByTracer, Some(55)));
    traced.tracer = Some(Neighbour { pid: HOLDER.0, seen: None });
    assert_eq!(cause(&record(HOLDER, 3, 0), &traced, &facts(3)), Cause::HolderStopped);
}

#[test]
fn a_dead_namespace_init_is_the_cause_unless_it_is_the_zombie_itself() {
    let init = |pid| Facts { namespace_init: Some(Identity { pid, start: BootTime(1) }), ..facts(3) };
    assert_eq!(cause(&record(HOLDER, 3, 0), &scene(HOLDER, 'S'), &init(90)), Cause::NamespaceDying);
    assert_eq!(cause(&record(HOLDER, 3, 0), &scene(HOLDER, 'S'), &init(CHILD.0)), Cause::NeverWaited);
}

#[test]
fn a_merged_signal_matters_only_to_a_holder_that_heeds_it() {
    let merged = record(HOLDER, 3, flag::SIGCHLD_COALESCED);
    assert_eq!(cause(&merged, &scene(HOLDER, 'S'), &facts(3)), Cause::NeverWaited);
    let mut heeding = scene(HOLDER, 'S');
    if let Some((seen, _)) = &mut heeding.holder.seen {
        seen.heeds_sigchld = true;
    }
    assert_eq!(cause(&merged, &heeding, &facts(3)), Cause::NotificationCoalesced);
}

#[test]
fn what_predates_the_daemon_is_unknown_unless_the_kernel_shows_otherwise() {
    let old = flag::PREDATES_FORK | flag::PREDATES_EXIT;
    assert_eq!(cause(&record(HOLDER, 3, old), &scene(HOLDER, 'S'), &facts(3)), Cause::Unknown);
    let (stranger, evidence) = judge(&record(HOLDER, 3, old), &scene(HOLDER, 'S'), &facts(4));
    assert_eq!(
        (stranger, evidence.holder_exec_since_fork),
        (Cause::Inherited, None),
        "or adopted: it is no claim"
    );
    assert_eq!(cause(&record(HOLDER, 3, old), &scene(HOLDER, 'T'), &facts(4)), Cause::HolderStopped);
    let younger = (HOLDER.0, 9_000_000_000);
    assert_eq!(cause(&record(younger, 3, old), &scene(younger, 'S'), &facts(4)), Cause::Adopted);
}

#[test]
fn a_fork_that_was_not_seen_leaves_the_cause_unknown() {
    let unseen = record((0, 0), 3, flag::FORK_UNSEEN);
    assert_eq!(cause(&unseen, &scene(HOLDER, 'S'), &facts(3)), Cause::Unknown);
}

#[test]
fn a_holder_that_vanished_while_it_was_looked_at_is_no_reason_to_panic() {
    let mut gone = scene(HOLDER, 'S');
    gone.holder.seen = None;
    assert_eq!(cause(&record(HOLDER, 3, 0), &gone, &Facts::default()), Cause::NeverWaited);
}
