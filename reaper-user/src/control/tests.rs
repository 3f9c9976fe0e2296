use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixListener,
    thread,
};

use super::{
    ask::{ANSWER, ask, listing},
    *,
};
use crate::{
    report::{Event, fixture, to_line},
    watch::Listing,
};

/// What a client makes of a daemon that answers so and hangs up, or that does neither.
fn answered(answer: Option<String>) -> Result<Listing, ControlError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let patience = if answer.is_some() { ANSWER } else { Duration::from_millis(20) };
    let daemon = thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        stream.read_line(&mut String::new()).unwrap();
        match answer {
            Some(answer) => stream.get_mut().write_all(answer.as_bytes()).unwrap(),
            // Until the client has left.
            None => assert_eq!(stream.read(&mut [0]).unwrap(), 0),
        }
    });
    let events = ask(&path, &Question::of(ZOMBIES), patience);
    daemon.join().unwrap();
    events.map(listing)
}

fn followed_by(announced: usize, zombies: usize) -> String {
    Verdict::followed_by(announced).line().unwrap() + &line().repeat(zombies)
}

fn line() -> String {
    to_line(&Event::Zombie(Box::new(fixture::shown(&fixture::never_waited())))).unwrap() + "\n"
}

#[test]
fn a_whole_answer_is_taken() {
    for count in [0, 2] {
        assert_eq!(answered(Some(followed_by(count, count))).unwrap().zombies.len(), count);
    }
}

#[test]
fn how_the_daemon_was_set_up_comes_as_it_was_said() {
    let metrics = Some("127.0.0.1:1".parse().unwrap());
    let (no_metrics, names) = (Some("why".to_owned()), names::Settings::default());
    let said = Setup { metrics, no_metrics, names, no_fork_hook: true };
    let line = Verdict { setup: Some(said.clone()), ..Verdict::followed_by(0) }.line().unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&line).unwrap().setup, Some(said));
    let plain = Verdict::followed_by(0).line().unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&plain).unwrap().setup, None, "{plain}");
}

#[test]
fn whoever_wants_no_hook_on_forks_has_none_by_another_command_either() {
    let daemon = |no_fork_hook| Ok(Setup { no_fork_hook, ..Setup::default() });
    let none = || Err(ControlError::NoDaemon("/run/x".into()));
    let lets = |daemon, unwanted| Setup::lets_hook(&daemon, unwanted);
    assert_eq!([lets(daemon(false), false), lets(none(), false)], [true; 2]);
    assert_eq!([lets(daemon(true), false), lets(daemon(false), true), lets(none(), true)], [false; 3]);
}

#[test]
fn an_answer_that_was_cut_off_is_not_taken_for_the_whole() {
    let error = answered(Some(followed_by(3, 2))).unwrap_err();
    assert!(matches!(error, ControlError::Cut { count: 3, came: 2, .. }), "{error}");
    let mut half = followed_by(2, 2);
    half.truncate(half.len() - 20);
    let error = answered(Some(half)).unwrap_err();
    assert!(matches!(error, ControlError::Answer(_)), "{error}");
    for none in ["", "{\"version\":1,\"ok\":true}\n"] {
        let error = answered(Some(none.to_owned())).unwrap_err();
        assert!(matches!(error, ControlError::Refused { .. }), "{none}: {error}");
    }
}

#[test]
fn a_daemon_that_does_not_answer_is_not_waited_for_for_ever() {
    let error = answered(None).unwrap_err();
    assert!(matches!(error, ControlError::Silent { .. }), "{error}");
}

#[test]
fn a_refusal_says_why() {
    let refusal = Verdict::refused("only root may ask".to_owned()).line().unwrap();
    let error = answered(Some(refusal)).unwrap_err();
    assert!(error.to_string().ends_with("answered: only root may ask"), "{error}");
}
