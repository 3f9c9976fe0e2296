use std::path::PathBuf;

use super::{
    ask::Question,
    fixture::{answer, said, said_about, state, typed, workload, zombie},
    key::Key,
    pane::{Pane, Remedy, Stage},
    reaping::Order,
    state::{Act, State, View},
};
use crate::{
    control::ControlError,
    identity::BootTime,
    policy::Refusal,
    report::{HeadroomEvent, Seconds, fixture},
    zombie::Cause,
};

fn names(state: &State) -> Vec<String> {
    state.workloads().0.iter().map(|row| row.workload.shown()).collect()
}

fn selected(state: &State) -> String {
    let (rows, place) = state.workloads();
    rows[place.unwrap()].workload.shown()
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        assert_eq!(typed(state, Key::Char(key)), None, "{key}");
    }
}

/// The workload of the fixtures, opened, with these zombies.
fn opened(allow_remedies: bool, zombies: Vec<crate::report::ZombieEvent>) -> State {
    let mut state = state(allow_remedies, vec![fixture::headroom()]);
    typed(&mut state, Key::Enter);
    state.take(Ok(answer(vec![fixture::headroom()], Some(zombies))));
    state
}

fn adopted_and_never_waited() -> Vec<crate::report::ZombieEvent> {
    vec![
        zombie(4712, 4700, Cause::NeverWaited),
        fixture::shown(&fixture::adopted()),
        zombie(4713, 4700, Cause::NeverWaited),
    ]
}

#[test]
fn workloads_are_sorted_by_what_is_asked_for_and_turned_round_when_it_is_asked_for_again() {
    let rated = |number, zombies, per_second, seconds| {
        let mut row = workload(number, zombies);
        row.rate = row.rate.map(|rate| crate::report::ShownRate { per_second, ..rate });
        let limit = &mut row.limits[1];
        limit.exhaustion.as_mut().unwrap().seconds = Seconds(std::time::Duration::from_secs(seconds));
        limit.used = Some(u64::from(number) * 100);
        row
    };
    let unknown = HeadroomEvent { rate: None, nearest: None, ..workload(9, 1) };
    let rows = vec![unknown, rated(1, 10, 3.0, 30), rated(2, 30, 1.0, 10), rated(3, 20, 2.0, 20)];
    let mut state = state(false, rows);
    assert_eq!(names(&state), ["w2", "w3", "w1", "w9"]);
    for (keys, order) in [
        ("z", ["w9", "w1", "w3", "w2"]),
        ("r", ["w1", "w3", "w2", "w9"]),
        // What is not known stays below.
        ("r", ["w2", "w3", "w1", "w9"]),
        ("h", ["w3", "w2", "w1", "w9"]),
        ("f", ["w2", "w3", "w1", "w9"]),
        ("n", ["w1", "w2", "w3", "w9"]),
        ("n", ["w9", "w3", "w2", "w1"]),
    ] {
        press(&mut state, keys);
        assert_eq!(names(&state), order, "{keys}");
    }
}

#[test]
fn who_is_selected_stays_so_whatever_the_next_answer_brings() {
    let mut state = state(false, vec![workload(1, 30), workload(2, 20), workload(3, 10)]);
    assert_eq!(selected(&state), "w1");
    typed(&mut state, Key::Down);
    assert_eq!(selected(&state), "w2");
    state.take(Ok(answer(vec![workload(1, 1), workload(2, 2), workload(3, 90)], None)));
    assert_eq!((names(&state)[0].as_str(), selected(&state).as_str()), ("w3", "w2"));
    press(&mut state, "n");
    assert_eq!(selected(&state), "w2");
    state.take(Ok(answer(vec![workload(1, 1), workload(3, 90)], None)));
    assert_eq!(selected(&state), "w3", "its neighbour");
    state.take(Ok(answer(Vec::new(), None)));
    assert_eq!(state.workloads().1, None);
    typed(&mut state, Key::Down);
    typed(&mut state, Key::Enter);
    assert!(matches!(state.view, View::Workloads));
}

#[test]
fn a_workload_opens_into_groups_and_those_into_zombies_and_is_asked_about_as_long() {
    let mut state = state(false, vec![fixture::headroom(), workload(7, 9_000)]);
    assert_eq!(state.question(), Question::Workloads);
    typed(&mut state, Key::Down);
    typed(&mut state, Key::Enter);
    assert_eq!(state.question(), Question::Zombies(fixture::headroom().workload.cgroup));
    assert!(state.groups().is_none(), "they have to be asked for first");
    typed(&mut state, Key::Enter);
    assert!(matches!(state.view, View::Workload(_)), "there is nothing to open yet");
    let mut stranger = zombie(1, 4700, Cause::NeverWaited);
    stranger.workload = workload(7, 0).workload;
    let mut below = zombie(4800, 4700, Cause::NeverWaited);
    let cgroup = below.workload.cgroup.clone().unwrap();
    below.workload.cgroup = Some(format!("{cgroup}/inner").as_str().into());
    let mut beside = zombie(2, 4700, Cause::NeverWaited);
    beside.workload.cgroup = Some(format!("{cgroup}2").as_str().into());
    let zombies = [adopted_and_never_waited(), vec![stranger, below, beside]].concat();
    state.take(Ok(answer(vec![fixture::headroom()], Some(zombies))));
    let (groups, place) = state.groups().unwrap();
    let counts: Vec<_> = groups.iter().map(|group| (group.key.cause, group.zombies.len())).collect();
    assert_eq!((counts, place), (vec![(Cause::NeverWaited, 3), (Cause::Adopted, 1)], Some(0)));

    typed(&mut state, Key::Down);
    typed(&mut state, Key::Enter);
    let (group, place) = state.group().unwrap();
    assert_eq!((group.key.cause, group.zombies[0].pid, place), (Cause::Adopted, 4712, Some(0)));
    // An answer to the question before has no zombies, and takes none away.
    state.take(Ok(answer(vec![fixture::headroom()], None)));
    assert!(state.group().is_some());
    state.take(Ok(answer(vec![fixture::headroom()], Some(Vec::new()))));
    assert!(state.group().is_none());
    typed(&mut state, Key::Back);
    assert!(matches!(&state.view, View::Workload(opened) if opened.is_told));
    state.take(Ok(answer(Vec::new(), Some(Vec::new()))));
    assert!(matches!(&state.view, View::Workload(opened) if !opened.is_told));
    typed(&mut state, Key::Back);
    assert_eq!(state.question(), Question::Workloads);
}

#[test]
fn a_daemon_that_does_not_answer_leaves_what_was_seen_and_how_old_that_is() {
    let mut state = state(false, vec![workload(1, 5)]);
    let asked = state.asked;
    state.take(Err(ControlError::NoDaemon(PathBuf::from("/run/reaper/reaper.sock"))));
    assert!(state.trouble.as_ref().unwrap().contains("no daemon listens"));
    assert_eq!((names(&state), state.asked), (vec!["w1".to_owned()], asked));
    state.take(Ok(answer(vec![workload(2, 5)], None)));
    assert_eq!((names(&state), &state.trouble), (vec!["w2".to_owned()], &None));
    assert!(state.asked >= asked);
}

#[test]
fn without_leave_a_key_shows_the_command_and_nothing_else_comes_of_it() {
    let mut state = opened(false, adopted_and_never_waited());
    assert_eq!(typed(&mut state, Key::Char('x')), None);
    let Some(Pane::Remedy(remedy)) = &state.pane else { panic!("{:?}", state.pane) };
    assert!(matches!(remedy.stage, Stage::NotAllowed));
    assert_eq!(
        remedy.order.command(),
        "reaper reap 4712 4713 --cause never-waited",
        "those of the line and no others"
    );
    let consent = remedy.order.with_consent().unwrap();
    assert_eq!(consent, "reaper reap 4712 4713 --cause never-waited --parent-may-miss-status");
    for key in [Key::Char('y'), Key::Char('x'), Key::Enter] {
        assert_eq!(typed(&mut state, key), None, "{key:?}");
    }
    assert!(state.pane.is_none());
}

/// A remedy for the adopted zombie, asked for and looked at.
fn tried(refusal: Option<&Refusal>) -> (State, Order) {
    let mut state = opened(true, vec![fixture::shown(&fixture::adopted())]);
    let Some(Act::Try(order)) = typed(&mut state, Key::Char('x')) else { panic!("{:?}", state.pane) };
    assert_eq!(typed(&mut state, Key::Char('y')), None, "it is not known yet what would be done");
    state.hear(said(&order, false, refusal));
    (state, order)
}

#[test]
fn a_remedy_is_done_after_it_was_looked_at_and_agreed_to_and_once() {
    let (mut state, order) = tried(None);
    assert_eq!(order.command(), "reaper reap 4712 --cause adopted");
    assert_eq!(order.with_consent(), None);
    assert_eq!(typed(&mut state, Key::Enter), None);
    assert!(state.pane.is_none(), "Enter is no yes");

    let (mut state, order) = tried(None);
    assert_eq!(state.reaping(), None);
    assert_eq!(typed(&mut state, Key::Char('y')), Some(Act::Reap(order.clone())));
    assert_eq!(typed(&mut state, Key::Char('y')), None, "once");
    assert_eq!(state.reaping(), Some(&order));
    // What has been begun is waited for; who insists is let go.
    assert_eq!((typed(&mut state, Key::Char('q')), typed(&mut state, Key::Back)), (None, None));
    assert_eq!(typed(&mut state, Key::Interrupt), Some(Act::Leave));
    state.hear(said(&order, true, None));
    let Some(Pane::Remedy(remedy)) = &state.pane else { panic!() };
    let Stage::Done(said) = &remedy.stage else { panic!("{remedy:?}") };
    assert!(said.lines[0].contains("of tini(4700)"), "{:?}", said.lines);
    assert_eq!(said.lines[1], "a \\x1b[31mword of \\x1b", "what it complains about is escaped, and once");
    assert_eq!(typed(&mut state, Key::Char('y')), None);
}

#[test]
fn what_would_not_be_done_or_to_somebody_else_is_not_offered() {
    let (mut state, _) = tried(Some(&Refusal::WaitSeen));
    assert_eq!(typed(&mut state, Key::Char('y')), None);
    // The number is another process's now.
    let mut other = fixture::adopted();
    other.holder.start = Some(BootTime(9_000_000_000_000_000));
    let mut state = opened(true, vec![fixture::shown(&fixture::adopted())]);
    let Some(Act::Try(order)) = typed(&mut state, Key::Char('x')) else { panic!() };
    state.hear(said_about(&order, false, None, &other));
    let Some(Pane::Remedy(remedy)) = &state.pane else { panic!() };
    let Stage::Tried(said, _) = &remedy.stage else { panic!("{remedy:?}") };
    assert!(said.why_not(&order).contains("another process"), "{}", said.why_not(&order));
    assert_eq!(typed(&mut state, Key::Char('y')), None);
}

#[test]
fn what_was_said_of_a_remedy_that_was_left_is_not_taken_for_anothers() {
    let mut state = opened(true, adopted_and_never_waited());
    let Some(Act::Try(first)) = typed(&mut state, Key::Char('x')) else { panic!() };
    typed(&mut state, Key::Back);
    typed(&mut state, Key::Enter);
    let Some(Act::Try(second)) = typed(&mut state, Key::Char('x')) else { panic!() };
    assert_eq!(second.command(), "reaper reap 4712 --cause never-waited");
    state.hear(said(&first, false, None));
    let Some(Pane::Remedy(remedy)) = &state.pane else { panic!() };
    let Remedy { order, stage } = &**remedy;
    assert!(matches!(stage, Stage::Trying(_)) && *order == second);
}

#[test]
fn a_yes_that_nobody_can_have_meant_is_none_and_what_is_old_is_looked_at_again() {
    let (mut state, order) = tried(None);
    let now = std::time::Instant::now();
    let after = |seconds| now + std::time::Duration::from_secs_f64(seconds);
    assert_eq!(state.press(Key::Char('y'), after(9.0)), None, "it was not on the screen yet");
    state.was_drawn(now, state.drawn);
    assert_eq!(state.press(Key::Char('y'), after(0.1)), None, "a key that is held down");
    assert_eq!(state.press(Key::Char('y'), after(61.0)), Some(Act::Try(order.clone())));
    state.hear(said(&order, false, None));
    assert_eq!(state.press(Key::Char('y'), after(62.0)), None, "it was not on the screen yet");
    state.was_drawn(after(62.0), state.drawn);
    assert_eq!(state.press(Key::Char('y'), after(63.0)), Some(Act::Reap(order)));
}

#[test]
fn rows_whose_limits_are_those_of_one_cgroup_above_are_told_apart() {
    let above = |number| {
        let mut row = workload(number, 5);
        row.limits[0].cgroup = Some("/above".into());
        row
    };
    let mut state = state(false, vec![above(1), above(2), above(3)]);
    let mut seen = vec![selected(&state)];
    for _ in 0..2 {
        typed(&mut state, Key::Down);
        seen.push(selected(&state));
    }
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{seen:?}");
    // Its own limit is gone with its cgroup, and its zombies stand.
    typed(&mut state, Key::Enter);
    let last = seen.pop().unwrap();
    let mut gone = [above(1), above(2), above(3)];
    for row in &mut gone {
        row.limits.clear();
    }
    state.take(Ok(answer(gone.to_vec(), None)));
    assert!(
        matches!(&state.view, View::Workload(opened) if opened.is_told && opened.row.workload.shown() == last)
    );
}

#[test]
fn q_leaves_a_view_and_only_closes_what_lies_over_it() {
    let mut state = state(true, vec![workload(1, 1)]);
    press(&mut state, "?q");
    assert!(state.pane.is_none());
    // There is nothing to reap in a list of workloads.
    press(&mut state, "x");
    assert!(state.pane.is_none());
    assert_eq!(typed(&mut state, Key::Char('q')), Some(Act::Leave));
}

#[test]
fn a_filter_is_typed_kept_edited_and_cleared_and_who_was_found_stays_selected() {
    let mut state = state(false, (1..=9).map(|number| workload(number * 11, u64::from(number))).collect());
    assert_eq!(selected(&state), "w99");
    press(&mut state, "/W3");
    assert_eq!((names(&state), selected(&state)), (vec!["w33".to_owned()], "w33".to_owned()));
    // Letters are no commands meanwhile.
    press(&mut state, "qxjk");
    assert_eq!(
        (names(&state).len(), state.workloads().1, state.filter.shown()),
        (0, None, "W3qxjk".to_owned())
    );
    typed(&mut state, Key::Enter);
    typed(&mut state, Key::Enter);
    assert!(matches!(state.view, View::Workloads), "there is none to open");
    press(&mut state, "/");
    for _ in 0..4 {
        typed(&mut state, Key::Erase);
    }
    typed(&mut state, Key::Enter);
    assert_eq!(names(&state), ["w33"]);
    // What comes is filtered, too; what was found is opened, and looked for among all.
    state.take(Ok(answer(vec![workload(33, 5), workload(333, 7), workload(1, 9)], None)));
    assert_eq!(
        (names(&state), selected(&state)),
        (vec!["w333".to_owned(), "w33".to_owned()], "w33".to_owned())
    );
    typed(&mut state, Key::Enter);
    state.take(Ok(answer(vec![workload(33, 6), workload(1, 9)], Some(Vec::new()))));
    assert!(matches!(&state.view, View::Workload(opened) if opened.is_told && opened.row.zombies == 6));
    typed(&mut state, Key::Back);
    assert_eq!(names(&state), ["w33"]);
    typed(&mut state, Key::Back);
    assert_eq!((names(&state).len(), selected(&state)), (2, "w33".to_owned()), "all are listed again");
    press(&mut state, "/w1");
    typed(&mut state, Key::Back);
    assert_eq!(names(&state).len(), 2);
    press(&mut state, "/1");
    typed(&mut state, Key::EraseAll);
    assert!(state.filter.is_typed() && state.filter.is_empty());
    typed(&mut state, Key::Erase);
    assert!(!state.filter.is_typed());
    press(&mut state, "G");
    assert_eq!(selected(&state), "w33");
    press(&mut state, "g");
    assert_eq!(selected(&state), "w1");
}

#[test]
fn a_page_of_the_list_is_what_there_is_room_for() {
    let mut state = state(false, (0..100).map(|number| workload(number, u64::from(number))).collect());
    state.drawn.page = 21;
    typed(&mut state, Key::PageDown);
    assert_eq!(selected(&state), "w78");
    press(&mut state, "  ");
    typed(&mut state, Key::PageUp);
    assert_eq!(selected(&state), "w57");
}

#[test]
fn ctrl_z_stops_it_whatever_is_open() {
    let mut state = state(false, vec![workload(1, 1)]);
    for keys in ["", "?", "/x"] {
        press(&mut state, keys);
        assert_eq!(typed(&mut state, Key::Suspend), Some(Act::Suspend), "{keys}");
    }
}
