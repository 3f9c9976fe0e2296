use std::{path::PathBuf, time::Duration};

use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

use super::*;
use crate::{
    cli::top::{
        ask::Answer,
        fixture::{answer, said, state, typed, workload, zombie},
        key::Key,
        state::Act,
    },
    control::ControlError,
    report::{HeadroomEvent, ShownWorkload, fixture},
    zombie::Cause,
};

const PLAIN: Look = Look { colour: false };

fn buffer(state: &State, (width, height): (u16, u16), look: Look, after: Duration) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let frame = |frame: &mut Frame<'_>| {
        draw(frame, state, look, state.asked + after);
    };
    terminal.draw(frame).unwrap();
    terminal.backend().buffer().clone()
}

/// What is to be read, line by line.
fn picture_after(state: &State, (width, height): (u16, u16), after: Duration) -> Vec<String> {
    let buffer = buffer(state, (width, height), PLAIN, after);
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn picture(state: &State, size: (u16, u16)) -> Vec<String> {
    picture_after(state, size, Duration::ZERO)
}

fn assert_shows(picture: &[String], parts: &[&str]) {
    for part in parts {
        assert!(
            picture.iter().any(|line| line.contains(part)),
            "{part:?} is not in:\n{}",
            picture.join("\n")
        );
    }
}

/// What is to be read after it was drawn, and the state knows how much room there was.
fn drawn(state: &mut State, size: (u16, u16)) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let mut room = None;
    terminal.draw(|frame| room = Some(draw(frame, state, PLAIN, state.asked))).unwrap();
    state.was_drawn(Instant::now(), room.unwrap());
    picture(state, size)
}

/// All lines of a pane, read from its beginning by this key.
fn read_by(state: &mut State, key: Key, size: (u16, u16)) -> Vec<String> {
    let body = |picture: &[String]| picture[1..picture.len() - 1].to_vec();
    let mut read = body(&drawn(state, size));
    for _ in 0..200 {
        let before = state.scroll;
        typed(state, key);
        let lines = body(&drawn(state, size));
        let new = state.scroll - before;
        if new == 0 {
            return read;
        }
        read.extend_from_slice(&lines[lines.len() - new..]);
    }
    panic!("it has no end: {read:?}");
}

/// The workload of the fixtures, opened, with this many zombies of one holder and one of another cause.
fn opened(zombies: u32) -> State {
    let mut state = state(true, vec![fixture::headroom()]);
    typed(&mut state, Key::Enter);
    let of_line = (0..zombies).map(|number| zombie(5_000 + number, 4700, Cause::NeverWaited));
    let zombies = of_line.chain([fixture::shown(&fixture::adopted())]).collect();
    state.take(Ok(answer(vec![fixture::headroom()], Some(zombies))));
    state
}

/// Each view and each pane.
fn all() -> Vec<State> {
    let failed = || Err(ControlError::NoDaemon(PathBuf::from("/run/reaper/reaper.sock")));
    let mut troubled = state(false, vec![fixture::headroom(), workload(1, 1)]);
    troubled.take(failed());
    let mut helped = state(false, Vec::new());
    typed(&mut helped, Key::Char('?'));
    let mut of_group = opened(500);
    typed(&mut of_group, Key::Enter);
    let mut gone = opened(3);
    typed(&mut gone, Key::Enter);
    gone.take(Ok(answer(Vec::new(), Some(Vec::new()))));
    let (mut trying, mut tried, mut done) = (opened(0), opened(0), opened(0));
    typed(&mut trying, Key::Char('x'));
    for state in [&mut tried, &mut done] {
        let Some(Act::Try(order)) = typed(state, Key::Char('x')) else { panic!() };
        state.hear(said(&order, false, None));
    }
    let Some(Act::Reap(order)) = typed(&mut done, Key::Char('y')) else { panic!() };
    done.hear(said(&order, true, None));
    let mut unasked = state(false, vec![hostile()]);
    typed(&mut unasked, Key::Enter);
    let mut whole = state(false, vec![hostile()]);
    typed(&mut whole, Key::Char('d'));
    let mut found = state(false, vec![hostile(), workload(1, 3)]);
    "/\u{202e}x".chars().for_each(|character| drop(typed(&mut found, Key::Char(character))));
    vec![
        state(false, Vec::new()),
        state(false, vec![hostile(), workload(1, 3)]),
        troubled,
        helped,
        opened(3),
        of_group,
        gone,
        trying,
        tried,
        done,
        unasked,
        whole,
        found,
    ]
}

/// A workload whose names somebody has chosen to do harm.
fn hostile() -> HeadroomEvent {
    let zombie = fixture::hostile();
    let mut row = fixture::headroom();
    row.workload = ShownWorkload::new(&zombie.workload, &zombie.named);
    row.holder = Some((&zombie.holder).into());
    row.limits[0].cgroup = row.workload.cgroup.clone();
    row
}

#[test]
fn in_80_columns_a_row_tells_zombies_rate_headroom_and_forecast() {
    let state = state(false, vec![workload(1, 7), fixture::headroom()]);
    let picture = picture(&state, (80, 24));
    assert_eq!(
        picture[..4],
        [
            "reaper top: 2 workloads, 3000 zombies in all                                 now",
            "  WORKLOAD                    ZOMBIES▼     RATE  FREE        FULL IN  USED/LIMIT",
            "> 3f2a9c0d1e4b                    3000    1.9/s   26%     9m14s ± 1m   3042/4096",
            "  w1                                 7    1.9/s   26%     9m14s ± 1m   3042/4096",
        ]
        .map(str::to_owned)
    );
    assert_eq!(picture[23], "q quit  ? help  Enter open  / find  z r h f n sort  d read  ↑↓ select");
}

#[test]
fn in_40_columns_and_10_lines_the_core_is_left() {
    let state = state(false, vec![workload(1, 7), fixture::headroom()]);
    let picture = picture(&state, (40, 10));
    assert_shows(&picture[..1], &["reaper top: 2 workloads, 3000"]);
    assert_shows(&picture[2..3], &["> 3f2a9c0d1e4b", "3000", "26%", "9m14s"]);
    assert_shows(&picture[9..], &["q quit  ? help  Enter open"]);
}

#[test]
fn wide_terminals_have_holder_and_cause() {
    let picture = picture(&state(false, vec![fixture::headroom()]), (140, 10));
    assert_shows(&picture, &["app(4700)", "never-waited"]);
}

#[test]
fn a_workload_has_its_limits_and_its_zombies_by_holder_cause_and_leak_site() {
    let picture = picture(&opened(3), (80, 24));
    assert_shows(
        &picture,
        &[
            "3000 zombies, 2990 of them reported",
            "full in 9m14s ± 1m at 1.9 zombies/s",
            "ZOMBIES HOLDER",
            ">       3 app(4700)          never-waited ",
            "exact: open_bro",
            "crawl.py:42",
            "        1 tini(4700)         adopted ",
            "x reap",
        ],
    );
    let narrow = self::picture(&opened(3), (40, 10));
    assert_shows(&narrow, &[">       3 app(4700)", "never-waited"]);
}

#[test]
fn a_group_has_its_stack_and_each_of_its_zombies() {
    let mut state = opened(500);
    typed(&mut state, Key::Enter);
    typed(&mut state, Key::End);
    let picture = picture(&state, (80, 24));
    assert_shows(
        &picture,
        &[
            "500 zombies of app(4700) (state S): never-waited: ",
            "no wait seen in 2.5s",
            "> open_browser /srv/crawl.py:42",
            "    PID     AGE EXIT",
            ">    5499      5s 0",
        ],
    );
}

#[test]
fn of_a_thousand_workloads_the_selected_one_is_in_sight() {
    let mut state = state(false, (0..1_000).map(|number| workload(number, u64::from(number))).collect());
    for (key, name) in [(Key::End, "> w0 "), (Key::Home, "> w999 "), (Key::PageDown, "> w989 ")] {
        typed(&mut state, key);
        for size in [(80, 24), (40, 10), (80, 4)] {
            let picture = picture(&state, size);
            assert_shows(&picture, &[name, "1000 workloads"]);
            assert!(picture.iter().all(|line| !line.is_empty()), "{picture:?}");
        }
    }
}

#[test]
fn without_workloads_that_is_what_is_said() {
    assert_shows(&picture(&state(false, Vec::new()), (80, 24)), &["0 workloads", "no workload has zombies"]);
}

#[test]
fn what_is_shown_is_said_to_be_as_old_as_it_is_and_why_it_is_not_newer() {
    let mut state = state(false, vec![fixture::headroom()]);
    let after = |state: &State, seconds: u64| {
        picture_after(state, (80, 24), Duration::from_millis(seconds * 1_000 + 900))
    };
    assert!(after(&state, 0)[0].ends_with(" now"));
    assert!(after(&state, 75)[0].ends_with(" 1m15s old"), "{:?}", after(&state, 75));
    state.take(Err(ControlError::NoDaemon(PathBuf::from("/run/reaper/reaper.sock"))));
    let picture = after(&state, 3);
    assert!(picture[0].ends_with(" 3s old"));
    assert_eq!(picture[1], "no daemon listens at /run/reaper/reaper.sock; asked again every 1s");
    assert_shows(&picture, &["> 3f2a9c0d1e4b"]);
    state.take(Ok(answer(vec![fixture::headroom()], None)));
    assert!(!after(&state, 0)[1].contains("no daemon"));
}

#[test]
fn no_colour_is_used_where_none_may_be_and_nothing_is_told_by_colour_alone() {
    for state in all() {
        let buffer = |look| buffer(&state, (80, 24), look, Duration::from_secs(60));
        let (plain, coloured) = (buffer(PLAIN), buffer(Look { colour: true }));
        for (plain, coloured) in plain.content().iter().zip(coloured.content()) {
            assert_eq!((plain.fg, plain.bg), (Color::Reset, Color::Reset));
            assert_eq!((plain.symbol(), plain.modifier), (coloured.symbol(), coloured.modifier));
        }
    }
    let state = state(false, vec![workload(1, 2), workload(2, 1)]);
    let buffer = buffer(&state, (80, 24), Look { colour: true }, Duration::ZERO);
    assert_eq!(buffer[(2, 3)].fg, Color::Red, "it is full in ten minutes");
}

#[test]
fn every_size_is_drawn_and_no_byte_of_a_name_acts_on_the_terminal() {
    for size in [(1, 1), (1, 30), (300, 1), (7, 3), (20, 5), (40, 10), (80, 24), (200, 60)] {
        for state in all() {
            for line in picture(&state, size) {
                assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{size:?}: {line:?}");
            }
        }
    }
}

#[test]
fn a_late_answer_is_not_drawn_as_if_it_were_new() {
    let asked = Instant::now().checked_sub(Duration::from_secs(9)).unwrap();
    let mut state = state(false, Vec::new());
    state.take(Ok(Answer { asked, workloads: vec![fixture::headroom()], zombies: None }));
    assert_eq!(state.asked, asked, "it is as old as the question");
    let now = Instant::now().saturating_duration_since(asked);
    assert!(picture_after(&state, (80, 24), now)[0].ends_with(" 9s old"));
}

#[test]
fn a_remedy_shows_the_command_what_it_would_do_and_asks() {
    let mut state = opened(0);
    let Some(Act::Try(order)) = typed(&mut state, Key::Char('x')) else { panic!() };
    assert_shows(&picture(&state, (80, 24)), &["reaper reap 4712 --cause adopted", "wait calls"]);
    state.hear(said(&order, false, None));
    assert_shows(
        &picture(&state, (80, 24)),
        &["of tini(4700)", "planned", "Do it? y: yes, Esc: no", "y do it"],
    );
    state.hear(said(&order, false, None));
    let mut refused = opened(0);
    typed(&mut refused, Key::Char('x'));
    refused.hear(said(&order, false, Some(&crate::policy::Refusal::WaitSeen)));
    let picture = picture(&refused, (80, 24));
    assert_shows(&picture, &["refused", "nothing here that it would do"]);
    assert!(!picture.iter().any(|line| line.contains("y do it")), "{picture:?}");
}

#[test]
fn a_yes_is_asked_for_where_the_end_is_on_the_screen() {
    let mut state = opened(0);
    let Some(Act::Try(order)) = typed(&mut state, Key::Char('x')) else { panic!() };
    state.hear(said(&order, false, None));
    let later = || Instant::now() + Duration::from_secs(1);
    for small in [(80, 3), (40, 6)] {
        let picture = drawn(&mut state, small);
        assert!(!picture.iter().any(|line| line.contains("y do it")), "{picture:?}");
        assert_eq!(state.press(Key::Char('y'), later()), None, "{small:?}");
    }
    // Its end is read, too.
    while state.scroll < state.drawn.scrolls {
        typed(&mut state, Key::Down);
        drawn(&mut state, (40, 6));
    }
    assert_shows(&drawn(&mut state, (40, 6)), &["Do it? y: yes", "y do it"]);
    assert_eq!(state.press(Key::Char('y'), later()), Some(Act::Reap(order)));
}

#[test]
fn without_leave_the_command_is_shown_and_the_consent_that_it_takes() {
    let mut state = state(false, vec![fixture::headroom()]);
    typed(&mut state, Key::Enter);
    let zombies = vec![zombie(1, 4700, Cause::NeverWaited)];
    state.take(Ok(answer(vec![fixture::headroom()], Some(zombies))));
    assert_shows(&picture(&state, (80, 24)), &["x reap (off)"]);
    typed(&mut state, Key::Char('x'));
    let picture = picture(&state, (80, 24));
    let command = "reaper reap 1 --cause never-waited";
    assert_eq!(picture[1], command);
    assert_shows(
        &picture,
        &["--allow-remedies", "--dry-run", &format!("{command} --parent-may-miss-status")],
    );
}

#[test]
fn a_pane_is_scrolled_to_its_ends_and_no_further() {
    let mut state = state(false, Vec::new());
    typed(&mut state, Key::Char('?'));
    let size = (40, 10);
    let first = drawn(&mut state, size);
    assert!(first[9].ends_with(" below"), "{first:?}");
    let by_line = read_by(&mut state, Key::Down, size);
    assert!(by_line.len() > 20 && by_line.iter().any(|line| line.contains("FULL IN")), "{by_line:?}");
    let last = drawn(&mut state, size);
    assert!(!last[9].contains("below") && last[8].trim() == by_line.last().unwrap().trim());
    // What was pressed in vain at the end is not to be taken back.
    typed(&mut state, Key::Up);
    assert_eq!(drawn(&mut state, size)[2], last[1]);
    typed(&mut state, Key::Home);
    assert_eq!(drawn(&mut state, size), first);
    assert_eq!(read_by(&mut state, Key::PageDown, size), by_line);
    typed(&mut state, Key::PageUp);
    typed(&mut state, Key::Char('G'));
    assert_eq!(drawn(&mut state, size), last);
    // There is room for all of it.
    drawn(&mut state, (80, 60));
    assert_eq!(state.scroll, 0);
}

#[test]
fn what_is_cut_in_a_row_or_above_it_is_read_in_full_in_a_small_terminal() {
    let mut state = opened(500);
    let frames: Vec<String> =
        (0..40).map(|number| format!("frame_{number} /srv/deep/{number}.py:1")).collect();
    let argument = format!("--data={}", "0123456789".repeat(30));
    let mut zombies = state.zombies().to_vec();
    for zombie in &mut zombies {
        let Some(stack) = zombie.origin.as_mut().and_then(|origin| origin.stack.as_mut()) else { continue };
        let frame = stack.frames[0].clone();
        stack.frames = (0..40)
            .map(|number| crate::report::ShownFrame {
                function: Some(format!("frame_{number}").as_str().into()),
                file: Some(format!("/srv/deep/{number}.py").as_str().into()),
                line: Some(1),
                ..frame.clone()
            })
            .collect();
        zombie.cmdline = Some(format!("/usr/bin/chrome {argument} --last").as_str().into());
    }
    state.take(Ok(answer(vec![fixture::headroom()], Some(zombies.clone()))));
    typed(&mut state, Key::Enter);
    let above = drawn(&mut state, (80, 24)).join("\n");
    assert!(!above.contains("frame_39") && !above.contains("--last"), "{above}");
    typed(&mut state, Key::Enter);
    for size in [(80, 24), (40, 10)] {
        typed(&mut state, Key::Home);
        let read = read_by(&mut state, Key::PageDown, size).concat().replace(' ', "");
        for frame in &frames {
            assert!(read.contains(&frame.replace(' ', "")), "{frame}: {read}");
        }
        assert!(read.contains(&argument) && read.contains("--last"), "{read}");
    }
    // It is gone, and can be read on.
    zombies.clear();
    state.take(Ok(answer(vec![fixture::headroom()], Some(zombies))));
    typed(&mut state, Key::Home);
    assert_shows(&drawn(&mut state, (80, 24)), &["It is gone", "Command    /usr/bin/chrome"]);
    for key in [Key::Back, Key::Back, Key::Char('d')] {
        typed(&mut state, key);
    }
    assert_shows(&drawn(&mut state, (80, 24)), &["Workload   ", "Headroom   full in 9m14s", "Esc back"]);
}

#[test]
fn found_workloads_are_listed_and_the_title_says_of_how_many() {
    let mut state = state(false, (0..1_000).map(|number| workload(number, u64::from(number))).collect());
    typed(&mut state, Key::Char('/'));
    assert_shows(&picture(&state, (80, 24))[..1], &["reaper top: /_ 1000 of 1000 workloads"]);
    "W99".chars().for_each(|character| drop(typed(&mut state, Key::Char(character))));
    let lines = picture(&state, (80, 24));
    assert_shows(&lines[..1], &["reaper top: /W99_ 11 of 1000 workloads"]);
    assert_shows(&lines[2..3], &["> w999 "]);
    assert_shows(&lines[12..13], &["  w99 "]);
    assert!(lines[13].is_empty() && lines[23].contains("Enter keep"), "{lines:?}");
    typed(&mut state, Key::Enter);
    assert_shows(&picture(&state, (40, 10))[..1], &["reaper top: /W99 11 of 1000"]);
    typed(&mut state, Key::Char('/'));
    typed(&mut state, Key::Char('x'));
    assert_shows(&picture(&state, (80, 24)), &["no workload has \"W99x\" in its name"]);
}
