use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// From so many on it is the runtime.
const WRONG_ABOUT: u64 = 8;

/// A server at `path` that does this with each connection.
fn serve(path: &Path, each: impl Fn(UnixStream) + Clone + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = each.clone();
            thread::spawn(move || each(stream));
        }
    });
}

/// Answers as Docker does about a container of this name, whatever the id; about the one with this id never.
fn docker_but(hangs: Option<String>, name: &'static str) -> impl Fn(UnixStream) + Clone + Send + 'static {
    move |mut stream| {
        let mut head = [0; 1024];
        let read = stream.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let id = head.strip_prefix("GET /containers/").unwrap().split('/').next().unwrap().to_owned();
        if hangs.as_ref() == Some(&id) {
            thread::sleep(Duration::from_secs(60));
            return;
        }
        let body = format!(r#"{{"Id":"{id}","Name":"/{name}","Config":{{"Image":"shop:1"}}}}"#);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

fn docker(name: &'static str) -> impl Fn(UnixStream) + Clone + Send + 'static {
    docker_but(None, name)
}

fn container(digit: char, runtime: Option<Runtime>) -> Workload {
    let id = String::from(digit).repeat(64);
    let path = format!("/x/{id}");
    Workload {
        kind: Kind::Container,
        id: Some(id.as_str().into()),
        runtime,
        pod_uid: None,
        unit: None,
        cgroup: Some(path.as_str().into()),
    }
}

fn nobody() -> Settings {
    Settings { cri: Vec::new(), docker: Vec::new(), podman: Vec::new(), systemd: Vec::new() }
}

/// Asks until it is so.
fn until(namer: &Namer, workload: &Workload, so: impl Fn(&Named) -> bool) -> Named {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let begun = Instant::now();
        let named = namer.of(workload);
        assert!(begun.elapsed() < Duration::from_millis(500), "nobody waits");
        if so(&named) {
            return named;
        }
        assert!(Instant::now() < deadline, "{named:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn name_of(named: &Named) -> Option<&str> {
    named.names()?.container.as_ref().map(Untrusted::as_str)
}

#[test]
fn runtimes_that_hang_fail_or_talk_nonsense_delay_nobody_and_no_other_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    serve(&at("hangs"), |stream| drop((stream, thread::sleep(Duration::from_secs(60)))));
    serve(&at("closes"), drop);
    serve(&at("nonsense"), |mut stream| stream.write_all(&[0xff; 100_000]).unwrap_or_default());
    serve(&at("endless"), |mut stream| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n";
        if stream.write_all(head).is_ok() {
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
        }
    });
    serve(&at("answers"), docker("web"));
    let settings = Settings {
        cri: vec![at("hangs"), at("closes"), at("nonsense")],
        docker: vec![at("endless"), at("hangs"), at("nonsense")],
        podman: vec![at("answers")],
        systemd: vec![at("nonsense"), at("hangs")],
    };
    let namer = Namer::start(settings).unwrap();
    let begun = Instant::now();
    let named = until(&namer, &container('a', None), |named| *named != Named::Pending);
    assert_eq!(name_of(&named), Some("web"));
    assert!(begun.elapsed() < worker::PATIENCE, "it did not wait for those that hang");
    // Those that must know it do not answer: that is said, and not that nobody knows it.
    let (of_docker, of_cri) = (container('b', Some(Runtime::Docker)), container('c', Some(Runtime::CriO)));
    for workload in [&of_docker, &of_cri] {
        assert_eq!(namer.of(workload), Named::Pending);
    }
    namer.settle(Duration::from_secs(10));
    assert!(begun.elapsed() < 3 * worker::PATIENCE, "each was given up");
    for workload in [&of_docker, &of_cri] {
        assert_eq!(namer.of(workload), Named::Pending);
    }
    let unit = Workload { kind: Kind::Unit, id: Some("a.service".into()), ..container('a', None) };
    assert_eq!(namer.of(&unit), Named::Nobody, "what it says of itself is nothing to wait for");
    assert_eq!(namer.counts(), Counts::default());
}

#[test]
fn one_that_is_never_answered_does_not_stand_in_the_way_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    serve(&socket, docker_but(Some("a".repeat(64)), "web"));
    let namer = Namer::start(Settings { docker: vec![socket], ..nobody() }).unwrap();
    assert_eq!(namer.of(&container('a', None)), Named::Pending);
    // They come while it is waited for.
    for digit in ['b', 'c', 'd'] {
        assert_eq!(namer.of(&container(digit, None)), Named::Pending);
    }
    for digit in ['b', 'c', 'd'] {
        let named = until(&namer, &container(digit, None), |named| named.names().is_some());
        assert_eq!(name_of(&named), Some("web"));
    }
}

#[test]
fn a_socket_that_appears_later_brings_the_names_of_what_was_asked_before() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let namer = Namer::start(Settings { docker: vec![socket.clone()], ..nobody() }).unwrap();
    let workload = container('a', None);
    until(&namer, &workload, |named| *named == Named::Nobody);
    serve(&socket, docker("late"));
    let named = until(&namer, &workload, |named| *named != Named::Nobody);
    assert_eq!(name_of(&named), Some("late"));
    // A restart of it does not forget what is known.
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(name_of(&namer.of(&workload)), Some("late"));
}

#[test]
fn a_socket_that_appears_later_is_asked_about_all_that_wait_whoever_it_answers_first() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let namer = Namer::start(Settings { docker: vec![socket.clone()], ..nobody() }).unwrap();
    let (early, late) = (container('a', None), container('b', None));
    until(&namer, &early, |named| *named == Named::Nobody);
    serve(&socket, docker("web"));
    for workload in [late, early] {
        assert_eq!(name_of(&until(&namer, &workload, |named| named.names().is_some())), Some("web"));
    }
}

#[test]
fn wrong_answers_about_some_neither_keep_others_waiting_nor_are_the_last_word() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let (right, better) = (docker("web"), Arc::new(AtomicBool::new(false)));
    let says_better = Arc::clone(&better);
    serve(&socket, move |mut stream| {
        let mut head = [0; 32];
        let peeked = rustix::net::recv(&stream, &mut head, rustix::net::RecvFlags::PEEK);
        if peeked.is_ok() && head.starts_with(b"GET /containers/00") && !says_better.load(Ordering::Relaxed) {
            let body = r#"{"Id":"ff","Name":"/other","Config":{"Image":"other:1"}}"#;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        } else {
            right(stream);
        }
    });
    let namer = Namer::start(Settings { docker: vec![socket], ..nobody() }).unwrap();
    // More than are taken for a runtime that is out of order.
    let poisoned: Vec<_> = (0..20)
        .map(|number| Workload {
            id: Some(format!("{number:064x}").as_str().into()),
            ..container('0', Some(Runtime::Docker))
        })
        .collect();
    for workload in &poisoned {
        assert_eq!(namer.of(workload), Named::Pending);
    }
    namer.settle(Duration::from_secs(10));
    let begun = Instant::now();
    until(&namer, &container('a', None), |named| named.names().is_some());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for workload in &poisoned {
        assert_eq!(namer.of(workload), Named::Pending);
    }
    let [requests] = namer.requests()[..] else { panic!() };
    assert_eq!((requests.of, requests.answered, requests.failed), ("docker", 1, 0));
    assert!(requests.wrong >= WRONG_ABOUT, "{requests:?}");
    better.store(true, Ordering::Relaxed);
    for workload in &poisoned {
        assert_eq!(name_of(&until(&namer, workload, |named| named.names().is_some())), Some("web"));
    }
}

#[test]
fn what_is_followed_is_asked_for_and_a_flood_of_it_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    serve(&socket, docker("web"));
    let namer = Namer::start(Settings { docker: vec![socket], ..nobody() }).unwrap();
    let all: Vec<_> = (0..400)
        .map(|number| Workload { id: Some(format!("{number:064x}").as_str().into()), ..container('a', None) })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !all.iter().all(|workload| namer.followed(workload).names().is_some()) {
        assert!(Instant::now() < deadline, "{:?}", namer.requests());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(namer.counts(), Counts::default());
}

#[test]
fn nobody_is_asked_about_what_has_no_names_or_by_what_is_no_id() {
    let namer = Namer::start(Settings { docker: vec![PathBuf::from("/nonexistent")], ..nobody() }).unwrap();
    let host = Workload { kind: Kind::Host, id: None, ..container('a', None) };
    let by_hand = Workload { id: Some("../../etc".into()), ..container('a', None) };
    for workload in [host, by_hand, container('a', Some(Runtime::Lxc)), container('a', Some(Runtime::CriO))] {
        assert_eq!(namer.of(&workload), Named::Nobody);
    }
    namer.settle(Duration::from_secs(60));
}

#[test]
fn a_flood_of_questions_is_bounded_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("hangs");
    serve(&socket, |stream| drop((stream, thread::sleep(Duration::from_secs(60)))));
    let namer = Namer::start(Settings { docker: vec![socket], ..nobody() }).unwrap();
    let begun = Instant::now();
    for number in 0..1_000 {
        let id = format!("{number:064x}");
        assert_eq!(
            namer.of(&Workload { id: Some(id.as_str().into()), ..container('a', None) }),
            Named::Pending
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(namer.counts().forgotten >= 500, "{:?}", namer.counts());
}
