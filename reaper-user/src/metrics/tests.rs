use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
};

use reaper_ebpf::reap_time::Times;

use super::*;
use crate::{
    kernel::{ProgramCost, ReapTimes},
    names::{Names, Requests},
    report::fixture,
    text::Untrusted,
    watch::{FailedForks, LedgerCounts, LimitCounts, WorkloadLabels, ZombieCounts, ZombieLabels},
    workload::Kind,
};

fn measured() -> Measured {
    let mut zombie = fixture::never_waited();
    (zombie.workload.kind, zombie.workload.pod_uid) = (Kind::Container, None);
    zombie.workload.id = Some(Untrusted::new(b"a\"b\\c\nd"));
    let labels = ZombieLabels::from(&zombie);
    let mut slow = Times { sum: 1_500_000_000, ..Times::default() };
    (slow.buckets[3], slow.buckets[11]) = (2, 1);
    let names = Names { pod: Some("shop-1".into()), image: Some("shop:1".into()), ..Names::default() };
    Measured {
        names: vec![(labels.of.clone(), Arc::new(names))],
        name_requests: vec![Requests { of: "cri", answered: 6, wrong: 2, failed: 1 }],
        times_by_workload: vec![(labels.of.clone(), slow)],
        zombies: vec![(labels, ZombieCounts { standing: 2, reported: 5, released: 3, reaped: 1 })],
        other_zombies: Some(ZombieCounts { standing: 7, ..ZombieCounts::default() }),
        zombies_overflowed: 9,
        born: 120,
        oldest: Some(Duration::from_millis(2_500)),
        times: ReapTimes { prompt: 100, slow, unplaced: 0 },
        other_times: None,
        times_overflowed: 0,
        remedies: [[0; 5]; 5],
        breakers: 0,
        limits: vec![(
            WorkloadLabels::from(&fixture::never_waited().workload),
            LimitCounts {
                limit: Some(256),
                used: 200,
                zombies: 190,
                free: 56.0 / 256.0,
                exhaustion: Some(Duration::from_secs(28)),
            },
        )],
        limits_overflowed: 0,
        fork_failures: vec![(
            WorkloadLabels::from(&fixture::never_waited().workload),
            FailedForks::new(17, Some(0.75)),
        )],
        other_fork_failures: Some(2),
        fork_failures_overflowed: 1,
        headroom_cost: (Duration::from_millis(3), 70),
        losses: [4; crate::report::Loss::ALL.len()],
        programs: vec![ProgramCost { program: "free".to_owned(), runs: 8, time: Duration::from_micros(1) }],
        sweeps: 3,
        swept: Duration::from_millis(12),
        ledger: LedgerCounts { alive: 11, dead: 1, standing: 9 },
        slots: 512,
        kernel_memory: 4_096,
    }
}

fn page(form: encode::Form) -> String {
    Scrape { measured: Arc::new(measured()), own: Own::default(), told: None }.page(form).unwrap()
}

#[test]
fn both_forms_have_the_same_samples_and_each_its_own_head() {
    let (open, prometheus) = (page(encode::Form::OpenMetrics), page(encode::Form::Prometheus));
    // Each has its own order of samples, and of labels.
    let samples = |page: &str| -> BTreeSet<Vec<String>> {
        let parts = |line: &str| {
            let mut parts: Vec<_> = line.split(['{', '}', ',']).map(str::to_owned).collect();
            parts.sort_unstable();
            parts
        };
        page.lines().filter(|line| !line.starts_with('#')).map(parts).collect()
    };
    assert_eq!(samples(&open), samples(&prometheus));
    assert!(open.ends_with("# EOF\n") && !prometheus.contains("# EOF"));
    assert!(open.contains("# TYPE reaper_zombies_reported counter\n"));
    assert!(prometheus.contains("# TYPE reaper_zombies_reported_total counter\n"));
}

#[test]
fn what_a_container_chose_stays_within_its_label() {
    let page = page(encode::Form::Prometheus);
    let wanted = r#"reaper_zombies_standing{kind="container",workload="a\"b\\\\c\\nd",pod_uid="",cause="never-waited"} 2"#;
    assert!(page.lines().any(|line| line == wanted), "{page}");
    let wanted = r#"reaper_workload_info{kind="container",workload="a\"b\\\\c\\nd",pod_uid="",namespace="",pod="shop-1",container="",image="shop:1"} 1"#;
    assert!(page.lines().any(|line| line == wanted), "{page}");
    assert!(
        page.lines().any(|line| line
            == r#"reaper_zombies_standing{kind="other",workload="other",pod_uid="",cause="other"} 7"#)
    );
}

#[test]
fn times_add_up_from_bucket_to_bucket() {
    let page = page(encode::Form::OpenMetrics);
    for line in [
        r#"reaper_time_to_reap_seconds_bucket{le="0.064"} 100"#,
        r#"reaper_time_to_reap_seconds_bucket{le="0.512"} 100"#,
        r#"reaper_time_to_reap_seconds_bucket{le="1.024"} 102"#,
        r#"reaper_time_to_reap_seconds_bucket{le="131.072"} 102"#,
        r#"reaper_time_to_reap_seconds_bucket{le="+Inf"} 103"#,
        "reaper_time_to_reap_seconds_count 103",
        "reaper_time_to_reap_seconds_sum 1.5",
        "reaper_zombies_born_total 120",
        r#"reaper_lost_total{stage="ledger",what="death-lost"} 4"#,
        r#"reaper_name_requests_total{runtime="cri",result="answered"} 6"#,
        r#"reaper_name_requests_total{runtime="cri",result="wrong"} 2"#,
        r#"reaper_name_requests_total{runtime="cri",result="failed"} 1"#,
        r#"reaper_program_runs_total{program="free"} 8"#,
        r#"reaper_program_seconds_total{program="free"} 0.000001"#,
    ] {
        assert!(page.lines().any(|found| found == line), "no {line} in {page}");
    }
}

/// Somebody who answers as watching does, until nobody asks any more; and where he is asked.
fn serving(settled: bool, answers: bool) -> (SocketAddr, Serving) {
    let metrics = Metrics::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = metrics.listener.local_addr().unwrap();
    let (queries, mut asked) = mpsc::channel(8);
    thread::spawn(move || {
        while let Some(query) = asked.blocking_recv() {
            match query {
                _ if !answers => {}
                Query::Metrics(reply) => drop(reply.send(measured())),
                Query::Settled(reply) => drop(reply.send(settled)),
                other => panic!("{other:?}"),
            }
        }
    });
    (address, metrics.serve(queries, None).unwrap())
}

fn ask(address: SocketAddr, question: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

#[test]
fn only_reading_is_answered_and_bad_questions_are_refused() {
    let (address, _serving) = serving(true, true);
    let metrics = get(address, "/metrics");
    assert!(
        metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("\r\nconnection: close\r\n"),
        "{metrics}"
    );
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    let accept = "Accept: text/html, application/openmetrics-text;version=1.0.0;q=0.5";
    let open = ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n\r\n"));
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
    let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    for (question, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".to_owned(), "405"),
        ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "405"),
        ("GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404"),
        ("\x16\x03\x01 no HTTP\r\n\r\n".to_owned(), "400"),
        (format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "431"),
        (format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100)), "431"),
    ] {
        let answer = ask(address, &question);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{question:.60} {answer}");
    }
}

#[test]
fn readiness_is_what_watching_says_and_silence_is_no_health() {
    let (address, _serving) = serving(true, true);
    assert!(
        get(address, "/readyz").starts_with("HTTP/1.1 200 ")
            && get(address, "/healthz").ends_with("\r\n\r\nok\n")
    );
    let (address, _serving) = serving(false, true);
    assert!(
        get(address, "/readyz").starts_with("HTTP/1.1 503 ")
            && get(address, "/healthz").starts_with("HTTP/1.1 200 ")
    );
    let (address, _serving) = serving(true, false);
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(get(address, path).starts_with("HTTP/1.1 503 "), "{path}");
    }
}

#[test]
fn clients_that_say_nothing_keep_nobody_from_being_answered() {
    let (address, _serving) = serving(true, true);
    let mut silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let metrics = get(address, "/metrics");
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("reaper_clients_dropped_total "));
    let dropped: u64 = dropped.unwrap().parse().unwrap();
    assert!(dropped > 100, "{dropped}");
    // Even those that were not dropped are ended.
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let ended = stream.read(&mut [0; 64]);
        assert!(
            matches!(ended, Ok(0))
                || ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
        );
    }
}

#[test]
fn an_address_that_is_taken_is_named_with_the_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let refused = Metrics::listen(address).unwrap_err();
    assert!(!refused.is_permission());
    let message = refused.to_string();
    assert!(message.contains(&address.to_string()) && message.contains("[metrics] listen"), "{message}");
}
