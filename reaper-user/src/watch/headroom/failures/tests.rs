use super::*;
use crate::headroom::{Found, Level, Limit};

fn refusal(path: &str, count: u64) -> Refusal {
    let path: CgroupPath = Arc::from(path.as_bytes());
    let (source, found) = (Source::PidsEvents, Found::PidsMax);
    Refusal { path, at_limit: true, forker: None, count, source, levels: Vec::new(), found, who: None }
}

/// By a limit that is no cgroup's.
fn by(limit: Limit, forker: &str, count: u64) -> Refusal {
    let refusal = refusal(forker, count);
    let (found, forker) = (Found::Other(limit, 10, 10), Some(Arc::clone(&refusal.path)));
    Refusal { found, at_limit: false, source: Source::Fexit, forker, ..refusal }
}

fn add(failures: &mut Failures, refusal: Refusal, workload: Workload, now: BootTime) {
    failures.count(&refusal, now);
    failures.add(refusal, workload, now);
}

/// What is due, each by itself.
fn alone(failures: &mut Failures, now: BootTime) -> Vec<Due> {
    let due = failures.due(now);
    assert!(due.iter().all(|together| together.len() == 1), "{due:?}");
    due.into_iter().flatten().collect()
}

/// How many forks and cgroups each event has.
fn numbers(due: &[Vec<Due>]) -> Vec<(u64, u64)> {
    due.iter().map(|due| (due.iter().map(|due| due.count).sum(), Due::cgroups(due))).collect()
}

fn at(ms: u64) -> BootTime {
    BootTime(1_000_000_000 + ms * 1_000_000)
}

#[test]
fn of_several_limits_the_one_with_the_most_zombies_counts_for_a_while() {
    let mut failed = FailedForks::default();
    let shares = [
        (0, Some(0.8), Some(0.8)),
        (1, Some(0.0), Some(0.8)),
        (2, None, Some(0.8)),
        (3, Some(0.9), Some(0.9)),
        (62, Some(0.1), Some(0.9)),
        (63, Some(0.1), Some(0.1)),
        (122, None, Some(0.1)),
        (123, None, None),
    ];
    for (second, told, known) in shares {
        failed.told(told, at(second * 1_000));
        assert_eq!(failed.zombie_share(), known, "second {second}");
    }
}

#[test]
fn ten_thousand_are_the_first_and_a_line_with_a_count() {
    let mut failures = Failures::default();
    let mut told = Vec::new();
    for number in 0..10_000 {
        add(&mut failures, refusal("/pod", 1), Workload::unresolved(), at(number / 10));
        told.extend(alone(&mut failures, at(number / 10)).into_iter().map(|due| (due.count, due.total)));
    }
    assert_eq!(told, [(1, 1)]);
    assert_eq!(failures.next(), Some(at(10_000)));
    assert_eq!(alone(&mut failures, at(9_999)), []);
    let rest = alone(&mut failures, at(10_000));
    assert_eq!((rest[0].count, rest[0].total), (9_999, 10_000));
    assert_eq!(failures.next(), None);
    assert_eq!(alone(&mut failures, at(60_000)), []);
    add(&mut failures, refusal("/pod", 3), Workload::unresolved(), at(60_000));
    assert_eq!(alone(&mut failures, at(60_000))[0].count, 3);
}

#[test]
fn each_limit_is_told_of_by_itself_and_a_pod_has_those_of_its_containers() {
    let mut failures = Failures::default();
    for (path, count, at_limit) in
        [("/pod/box", 2, true), ("/pod", 1, true), ("/podium", 5, true), ("/old", 4, false)]
    {
        add(&mut failures, Refusal { at_limit, ..refusal(path, count) }, Workload::unresolved(), at(0));
    }
    assert_eq!(alone(&mut failures, at(0)).len(), 4);
    let totals = ["/pod", "/pod/box", "/pod/other", "/old", "/old/box", "/x"];
    // By the pod's limit any of its containers may have been refused; what is counted at a forker is that one's only.
    assert_eq!(totals.map(|path| failures.total(path.as_bytes())), [3, 3, 1, 4, 0, 0]);
}

#[test]
fn what_a_user_or_the_node_may_have_is_told_by_itself_and_counted_where_it_was_refused() {
    let mut failures = Failures::default();
    for (path, found, count) in [
        ("/pod", Found::PidsMax, 1),
        ("/pod", Found::Other(Limit::Nproc(7), 10, 10), 2),
        ("/pod", Found::Other(Limit::Nproc(7), 12, 13), 3),
        ("/pod", Found::Other(Limit::Nproc(8), 10, 10), 4),
        ("/pod", Found::Unknown, 5),
        ("/else", Found::Other(Limit::ThreadsMax, 10, 10), 6),
    ] {
        let at_limit = found == Found::PidsMax;
        add(
            &mut failures,
            Refusal { found, at_limit, ..refusal(path, count) },
            Workload::unresolved(),
            at(0),
        );
    }
    let mut counts: Vec<_> = alone(&mut failures, at(0)).iter().map(|due| due.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 4, 5, 5, 6]);
    assert_eq!(["/pod", "/else", "/pod/box"].map(|path| failures.total(path.as_bytes())), [15, 6, 1]);
}

#[test]
fn a_forker_is_named_with_what_it_was_refused_and_not_with_what_follows() {
    let mut failures = Failures::default();
    let forker = Some(Arc::from(&b"/pod/box"[..]));
    let whose = |id: &str| Workload { id: Some(id.into()), ..Workload::unresolved() };
    add(&mut failures, Refusal { forker: forker.clone(), ..refusal("/pod", 1) }, whose("box"), at(0));
    add(&mut failures, refusal("/pod", 1), whose("pod"), at(1));
    let first = alone(&mut failures, at(1)).remove(0);
    assert_eq!((first.refusal.forker, first.workload), (forker, whose("box")));
    add(&mut failures, refusal("/pod", 1), whose("pod"), at(20_000));
    let second = alone(&mut failures, at(20_000)).remove(0);
    assert_eq!((second.refusal.forker, second.workload), (None, whose("pod")));
}

#[test]
fn what_could_not_be_told_is_told_later_with_its_forker() {
    let mut failures = Failures::default();
    let forker = Some(Arc::from(&b"/pod/box"[..]));
    add(&mut failures, Refusal { forker, ..refusal("/pod", 2) }, Workload::unresolved(), at(0));
    let due = alone(&mut failures, at(0));
    failures.put_back(due.clone());
    assert_eq!((alone(&mut failures, at(9_999)), failures.next()), (Vec::new(), Some(at(10_000))));
    assert_eq!(alone(&mut failures, at(10_000)), due);
    assert_eq!(failures.next(), None);
}

#[test]
fn what_the_hook_has_seen_and_is_not_told_is_known_also_of_a_limit_that_others_speak_of() {
    let mut failures = Failures::default();
    for (source, count) in [(Source::Fexit, 1), (Source::Fexit, 20), (Source::PidsEvents, 300)] {
        add(&mut failures, Refusal { source, ..refusal("/pod", count) }, Workload::unresolved(), at(0));
        if count == 1 {
            assert_eq!(failures.untold_of_hook(), 1);
            assert_eq!(alone(&mut failures, at(0)).len(), 1);
        }
    }
    assert_eq!(failures.untold_of_hook(), 20);
    let due = alone(&mut failures, at(10_000));
    assert_eq!(failures.untold_of_hook(), 0);
    failures.put_back(due);
    assert_eq!(failures.untold_of_hook(), 20);
}

#[test]
fn there_are_never_more_than_fit() {
    let mut failures = Failures::default();
    for number in 0..KEPT as u64 + 7 {
        add(&mut failures, refusal(&format!("/c{number}"), 1), Workload::unresolved(), at(number));
        failures.due(at(number));
    }
    assert_eq!(failures.by_limit.len(), KEPT);
    assert_eq!(failures.total(b"/c0"), 0);
}

#[test]
fn a_limit_that_refuses_in_a_thousand_cgroups_is_one_event_each_ten_seconds() {
    let mut failures = Failures::default();
    let whose =
        |number: u64| Workload { id: Some(format!("box{number}").as_str().into()), ..Workload::unresolved() };
    let mut told = Vec::new();
    for ms in 0..30_000 {
        let number = ms % 1_000;
        add(&mut failures, by(Limit::PidMax, &format!("/box{number}"), 2), whose(number), at(ms));
        let due = alone(&mut failures, at(ms));
        told.extend(due.iter().map(|due| {
            let workloads: HashSet<_> = due.workloads().map(|workload| workload.id.clone()).collect();
            assert_eq!(due.refusal.forker.as_deref(), Some(format!("/box{number}").as_bytes()));
            (ms, due.count, due.total, Due::cgroups(std::slice::from_ref(due)), workloads.len())
        }));
    }
    // Each of them is known to have had a part.
    assert_eq!(
        told,
        [(0, 2, 2, 1, 1), (10_000, 20_000, 20_002, 1_000, 1_000), (20_000, 20_000, 40_002, 1_000, 1_000)]
    );
    assert_eq!((failures.untold_of_hook(), failures.total(b"/box7")), (19_998, 60));
    failures.hurry();
    assert_eq!(numbers(&failures.due(at(29_999))), [(19_998, 1_000)]);
    assert_eq!((failures.untold_of_hook(), failures.cgroups), (0, 0));
}

#[test]
fn a_cgroups_limit_is_the_same_one_whether_it_is_counted_there_or_at_the_forkers() {
    let mut failures = Failures::default();
    let level = |path: &str, max| Level {
        path: Arc::from(path.as_bytes()),
        max,
        current: 20,
        threads: None,
        processes: None,
    };
    for number in 0..50 {
        let path = format!("/pod/box{number}");
        let levels = vec![level(&path, None), level("/pod", Some(20))];
        let at_forker = Refusal { at_limit: false, levels, ..refusal(&path, 1) };
        let forker = Some(Arc::clone(&at_forker.path));
        add(&mut failures, Refusal { forker, ..at_forker }, Workload::unresolved(), at(0));
    }
    add(&mut failures, refusal("/pod", 7), Workload::unresolved(), at(0));
    // Where one whose process tried is known, the limit's own is none of them.
    assert_eq!(numbers(&failures.due(at(0))), [(57, 50)]);
    add(&mut failures, refusal("/pod", 7), Workload::unresolved(), at(10_000));
    assert_eq!(numbers(&failures.due(at(10_000))), [(7, 1)]);
}

#[test]
fn whoever_makes_a_cgroup_for_each_fork_has_no_event_for_each() {
    let mut failures = Failures::default();
    let mut told = Vec::new();
    for number in 0..3_000 {
        let ms = number * 4;
        add(&mut failures, refusal(&format!("/user/c{number}"), 1), Workload::unresolved(), at(ms));
        if failures.next().is_some_and(|next| next <= at(ms)) {
            let due = failures.due(at(ms));
            assert!(!due.is_empty(), "there is said to be something at {ms} ms");
            told.extend(numbers(&due));
        }
    }
    // The first ten at once, then one a second.
    assert_eq!(told[..10], [(1, 1); 10]);
    assert!((21..=22).contains(&told.len()), "{told:?}");
    failures.hurry();
    told.extend(numbers(&failures.due(at(12_000))));
    let (forks, cgroups): (Vec<_>, Vec<_>) = told.into_iter().unzip();
    assert_eq!((forks.iter().sum::<u64>(), cgroups.iter().sum::<u64>()), (3_000, 3_000));
    assert_eq!((failures.next(), failures.by_limit.len(), failures.cgroups), (None, KEPT, 0));
    // And when it is quiet again the first is told at once.
    add(&mut failures, refusal("/pod", 1), Workload::unresolved(), at(30_000));
    assert_eq!(numbers(&failures.due(at(30_000))), [(1, 1)]);
}

#[test]
fn more_than_fit_at_once_are_told_without_their_limits_and_none_is_lost() {
    let mut failures = Failures::default();
    let hooked = |number: u64| Refusal { source: Source::Fexit, ..refusal(&format!("/user/c{number}"), 1) };
    for number in 0..10_000 {
        add(&mut failures, hooked(number), Workload::unresolved(), at(0));
    }
    assert_eq!((failures.by_limit.len(), failures.cgroups), (KEPT + 1, CGROUPS));
    let due = failures.due(at(0));
    let told = numbers(&due);
    // Of those without a limit of their own there are the most.
    assert_eq!((due.len(), due[0][0].is_of_one(), failures.untold_of_hook()), (10, false, 0));
    assert_eq!((told[0], told[1..9].iter().all(|told| *told == (1, 1))), ((8_976, 7_168), true));
    assert_eq!(told[9], (1_016, 1_016));
    failures.put_back(due.into_iter().flatten());
    assert_eq!(
        (failures.untold_of_hook(), failures.cgroups, failures.next()),
        (10_000, CGROUPS, Some(at(10_000)))
    );
    assert_eq!(failures.due(at(9_999)), Vec::<Vec<Due>>::new());
    let told = numbers(&failures.due(at(10_000)));
    assert_eq!((told.len(), told.iter().map(|(forks, _)| forks).sum::<u64>()), (10, 10_000));
}

#[test]
fn of_more_limits_than_may_be_told_of_each_has_its_turn() {
    let mut failures = Failures::default();
    let mut named = HashSet::new();
    for round in 0..4 {
        let now = at(round * 20_000);
        for number in 0..30 {
            add(&mut failures, refusal(&format!("/pod{number}"), 1), Workload::unresolved(), now);
        }
        let due = failures.due(now);
        assert_eq!(due.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 1, 1, 1, 1, 21]);
        named.extend(due[..9].iter().map(|due| due[0].refusal.path.clone()));
    }
    assert_eq!(named.len(), 30);
}
