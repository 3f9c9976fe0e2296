use super::*;

const BOX: &[u8] = b"/pod/box";

fn path(text: &[u8]) -> CgroupPath {
    Arc::from(text)
}

fn at(second: u64) -> BootTime {
    BootTime(second * 1_000_000_000)
}

fn level(of: &[u8], max: Option<u64>, current: u64, threads: Option<u64>) -> Level {
    Level { path: path(of), max, current, threads, processes: threads }
}

fn seen(levels: Vec<Level>) -> Seen {
    let node = Node { pid_max: 32_768, threads_max: 190_000, tasks: 700 };
    Seen { number: 1, levels, node: Some(node), nprocs: Vec::new(), unread: 0, took: Duration::ZERO }
}

/// Two a second into 256 of the pod, of which 6 live; looked at when it is due.
fn leak(accounts: &mut Accounts, until: u64) -> u64 {
    accounts.meet(&path(BOX), 1, Some(7), at(100));
    let mut now = at(100);
    let mut looks = 0;
    while now <= at(100 + until) {
        let zombies = now.since(at(100)).as_secs() * 2;
        let due = accounts.due(now);
        assert_eq!(due.len(), 1);
        let listed = due[0].1.then_some(6);
        let levels =
            vec![level(BOX, None, zombies + 6, listed), level(b"/pod", Some(256), zombies + 6, None)];
        let found = accounts.take(&[path(BOX)], seen(levels), |_| zombies, zombies, now);
        assert_eq!(found, []);
        looks += 1;
        now = accounts.next().unwrap();
    }
    looks
}

#[test]
fn the_limit_that_is_full_first_is_the_nearest_also_where_it_is_further_out() {
    let mut accounts = Accounts::default();
    let looks = leak(&mut accounts, 60);
    let headroom = accounts.of(BOX);
    let nearest = headroom.nearest().unwrap();
    assert_eq!(nearest.limit, Limit::PidsMax(path(b"/pod")));
    let forecast = nearest.forecast.unwrap();
    // (256 − 6) / 2 seconds after the start.
    let off = forecast.at.since(at(100)).as_secs_f64() - 125.0;
    assert!(off.abs() < 6.0, "{off} s off: {forecast:?}");
    assert!(nearest.share() > 0.9, "{nearest:?}");
    assert_eq!(headroom.uses[0].threads, Some(6));
    assert_eq!(headroom.uses.len(), 4, "{headroom:?}");
    assert!((8..40).contains(&looks), "{looks} looks in a minute");
}

#[test]
fn what_stands_still_far_from_its_limit_is_looked_at_ever_more_rarely() {
    let mut accounts = Accounts::default();
    accounts.meet(&path(BOX), 3, None, at(100));
    let mut looks = 0;
    while accounts.next().unwrap() < at(700) {
        let now = accounts.next().unwrap();
        accounts.due(now);
        accounts.take(&[path(BOX)], seen(vec![level(BOX, Some(4_096), 20, None)]), |_| 3, 3, now);
        looks += 1;
    }
    assert!(looks < 30, "{looks} looks in ten minutes");
    assert_eq!(accounts.of(BOX).nearest().unwrap().forecast, None);
}

#[test]
fn near_a_limit_it_is_looked_at_every_second() {
    let mut accounts = Accounts::default();
    accounts.meet(&path(BOX), 3, None, at(100));
    for second in 100..120 {
        assert_eq!(accounts.next(), Some(at(second)));
        accounts.due(at(second));
        let levels = vec![level(BOX, Some(64), 60, None)];
        accounts.take(&[path(BOX)], seen(levels), |_| 3, 3, at(second));
    }
    assert!(accounts.of(BOX).free().unwrap() < 0.1);
}

#[test]
fn that_the_ledger_and_the_kernel_differ_is_said_once_when_it_stands() {
    let mut accounts = Accounts::default();
    accounts.meet(&path(BOX), 3, None, at(100));
    let mut said = Vec::new();
    for look in 0..6 {
        let now = at(100 + look * 30);
        assert!(accounts.due(now)[0].1, "its threads are counted");
        let levels = vec![level(BOX, None, 40, Some(10))];
        said.extend(accounts.take(&[path(BOX)], seen(levels), |_| 10, 10, now));
    }
    assert_eq!(said, [Disagreement { path: path(BOX), ledger: 10, unlisted: 30 }]);
    // Tasks that come and go are no disagreement.
    let now = at(400);
    accounts.due(now);
    let levels = vec![level(BOX, None, 40, Some(10))];
    assert_eq!(accounts.take(&[path(BOX)], seen(levels), |_| 27, 27, now), []);
}

#[test]
fn what_has_no_zombies_any_more_is_forgotten_a_minute_later() {
    let mut accounts = Accounts::default();
    assert!(accounts.meet(&path(BOX), 3, None, at(100)));
    assert!(!accounts.meet(&path(BOX), 4, None, at(101)));
    accounts.expire(at(110), |_| 0);
    accounts.expire(at(160), |_| 1);
    accounts.expire(at(170), |_| 0);
    accounts.expire(at(229), |_| 0);
    assert_eq!(accounts.paths().count(), 1);
    accounts.expire(at(230), |_| 0);
    assert_eq!((accounts.paths().count(), accounts.next()), (0, None));
}

#[test]
fn there_are_never_more_than_fit_and_who_found_no_place_is_counted() {
    let mut accounts = Accounts::default();
    for number in 0..KEPT + 3 {
        accounts.meet(&path(format!("/c{number}").as_bytes()), 1, None, at(100));
    }
    assert_eq!((accounts.paths().count(), accounts.turned_away()), (KEPT, 3));
}

#[test]
fn whose_fork_was_refused_is_looked_at_for_a_minute_and_gives_way_to_who_has_zombies() {
    let mut accounts = Accounts::default();
    let refused = path(b"/refused");
    assert!(accounts.refused(&refused, at(0)) && accounts.due(at(0)).len() == 1);
    accounts.expire(at(50), |_| 0);
    assert!(accounts.refused(&refused, at(55)), "once more");
    for (second, kept) in [(100, 1), (159, 1), (161, 0)] {
        accounts.expire(at(second), |_| 0);
        assert_eq!(accounts.paths().count(), kept, "{second}");
    }
    for number in 0..KEPT - 1 {
        accounts.meet(&path(format!("/{number}").as_bytes()), 1, None, at(200));
    }
    assert!(accounts.refused(&refused, at(200)));
    assert!(!accounts.refused(&path(b"/another"), at(200)), "both have none");
    accounts.meet(&path(b"/leaks"), 1, None, at(200));
    let is_kept = |accounts: &Accounts, wanted: &CgroupPath| accounts.paths().any(|path| path == wanted);
    assert!(!is_kept(&accounts, &refused) && is_kept(&accounts, &path(b"/leaks")));
    assert_eq!((accounts.paths().count(), accounts.turned_away()), (KEPT, 1));
}

#[test]
fn after_zombies_went_it_is_looked_at_as_often_as_at_the_beginning() {
    let mut accounts = Accounts::default();
    leak(&mut accounts, 100);
    // All but a few are reaped, and ten a second come again: full in 25 seconds.
    let mut now = accounts.next().unwrap();
    let (start, mut looks) = (now, 0);
    while now <= start.plus(Duration::from_secs(20)) {
        let zombies = now.since(start).as_secs() * 10;
        accounts.due(now);
        let levels = vec![level(BOX, None, zombies + 6, None), level(b"/pod", Some(256), zombies + 6, None)];
        accounts.take(&[path(BOX)], seen(levels), |_| zombies, zombies, now);
        looks += 1;
        now = accounts.next().unwrap();
    }
    assert!(looks >= 12, "{looks} looks");
    assert!(accounts.of(BOX).free().unwrap() < 0.3);
}

#[test]
fn the_limit_of_a_holder_is_read_once_and_that_of_another_one_then() {
    let mut accounts = Accounts::default();
    accounts.meet(&path(BOX), 3, Some(7), at(100));
    assert_eq!(accounts.unread_holder(BOX), Some(7));
    let nproc = Nproc { uid: 1_000, limit: Some(64) };
    let read = |holder, found: Option<Nproc>| Seen {
        nprocs: vec![(holder, found)],
        ..seen(vec![level(BOX, None, 9, None)])
    };
    accounts.take(&[path(BOX)], read(7, Some(nproc)), |_| 3, 3, at(100));
    assert_eq!((accounts.unread_holder(BOX), accounts.of(BOX).nproc), (None, Some(nproc)));
    accounts.meet(&path(BOX), 3, Some(8), at(101));
    assert_eq!(accounts.unread_holder(BOX), Some(8));
    // It is gone before it is looked at: that is not tried again and again.
    accounts.take(&[path(BOX)], read(8, None), |_| 3, 3, at(101));
    assert_eq!((accounts.unread_holder(BOX), accounts.of(BOX).nproc), (None, None));
}

#[test]
fn a_cgroup_that_is_gone_has_no_limit_while_its_zombies_stand() {
    let mut accounts = Accounts::default();
    leak(&mut accounts, 100);
    assert!(accounts.of(BOX).free().unwrap() < 0.3 && accounts.of(BOX).rate.is_some());
    let mut now = accounts.next().unwrap();
    let gone = now;
    while now <= gone.plus(Duration::from_secs(300)) {
        accounts.due(now);
        accounts.expire(now, |_| 200);
        // The pod is still there, without the limit.
        let levels = vec![level(b"/pod", None, 6, None)];
        accounts.take(&[path(BOX)], seen(levels), |_| 200, 200, now);
        let headroom = accounts.of(BOX);
        let limits: Vec<_> = headroom.uses.iter().map(|of| of.limit.clone()).collect();
        assert_eq!(limits, [Limit::PidMax, Limit::ThreadsMax]);
        assert_eq!(
            (headroom.zombies, headroom.rate, headroom.nearest().unwrap().forecast),
            (200, None, None)
        );
        now = accounts.next().unwrap();
    }
    // It is looked at rarely by then.
    accounts.due(now);
    assert!(accounts.next().unwrap() >= now.plus(SLOW));
}

#[test]
fn what_was_read_long_ago_is_not_believed() {
    let mut accounts = Accounts::default();
    leak(&mut accounts, 100);
    let last = accounts.next().unwrap();
    // The reader hangs.
    for second in (0..=90).step_by(30) {
        accounts.expire(last.plus(Duration::from_secs(second)), |_| 200);
    }
    assert_eq!((accounts.of(BOX).uses, accounts.of(BOX).seen), (Vec::new(), None));
}

#[test]
fn what_cannot_be_listed_is_not_listed_again_at_every_look() {
    let mut accounts = Accounts::default();
    accounts.meet(&path(BOX), 3, None, at(100));
    let mut listed = 0;
    for second in 100..160 {
        listed += accounts.due(at(second)).iter().filter(|(_, list)| *list).count();
        accounts.take(&[path(BOX)], seen(vec![level(BOX, Some(64), 60, None)]), |_| 3, 3, at(second));
    }
    assert_eq!(listed, 3);
}

#[test]
fn there_are_never_more_zombies_than_tasks_and_it_is_known_when_they_were_counted() {
    let mut accounts = Accounts::default();
    accounts.meet(&path(BOX), 90, None, at(100));
    // Thirty of those that the ledger knew of were released before the files were read.
    accounts.take(&[path(BOX)], seen(vec![level(BOX, Some(256), 60, None)]), |_| 90, 90, at(100));
    let headroom = accounts.of(BOX);
    let own = &headroom.uses[0];
    assert_eq!((own.zombies, own.used, headroom.seen), (60, 60, Some(at(100))));
    assert!((own.share() - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_full_limit_is_the_nearest_also_while_another_one_is_forecast() {
    let mut accounts = Accounts::default();
    for second in 100..160 {
        let (now, zombies) = (at(second), (second - 100) * 2);
        accounts.meet(&path(BOX), zombies, None, now);
        let levels = vec![level(BOX, Some(4_096), zombies + 6, None), level(b"/pod", Some(20), 20, None)];
        let counts = |of: &[u8]| if of == BOX { zombies } else { 3 };
        accounts.take(&[path(BOX)], seen(levels), counts, zombies, now);
    }
    let headroom = accounts.of(BOX);
    assert!(headroom.uses[0].forecast.is_some());
    let nearest = headroom.nearest().unwrap();
    assert_eq!(nearest.limit, Limit::PidsMax(path(b"/pod")));
    assert_eq!((nearest.lasts(at(160)), nearest.free()), (Some(Duration::ZERO), Some(0.0)));
}

#[test]
fn that_others_fill_the_machine_is_not_told_of_who_does_not_leak() {
    let mut accounts = Accounts::default();
    for second in 100..160 {
        let all = (second - 100) * 10;
        let levels = vec![level(BOX, None, all, None), level(b"/calm", None, 9, None)];
        for of in [BOX, b"/calm"] {
            accounts.meet(&path(of), 3, None, at(second));
        }
        let zombies = |of: &[u8]| if of == BOX { all } else { 3 };
        accounts.take(&[path(BOX), path(b"/calm")], seen(levels), zombies, all, at(second));
    }
    let full = |of: &[u8]| accounts.of(of).nearest().and_then(|of| of.forecast).is_some();
    assert!(full(BOX) && full(b"/") && !full(b"/calm"));
}

#[test]
fn cgroups_that_are_known_have_a_bound_and_those_that_most_are_below_stay() {
    let mut accounts = Accounts::default();
    // Many workloads, each deep by itself, below one pod; and a workload beside them.
    let own = |number: usize| path(format!("/pod/{number}{}", "/c".repeat(40)).as_bytes());
    let all: Vec<_> = (0..KEPT - 1).map(own).chain([path(BOX)]).collect();
    assert!(all.iter().all(|path| accounts.meet(path, 1, None, at(100))));
    for now in [at(100), at(101)] {
        let levels: HashSet<_> = all.iter().flat_map(|path| upwards(path)).collect();
        let levels = levels.into_iter().map(|of| level(of, Some(1_000), 9, None)).collect();
        accounts.take(&all, seen(levels), |_| 1, 1, now);
        assert_eq!(accounts.levels.len(), LEVELS);
    }
    assert!(accounts.turned_away() > 0);
    for path in &all {
        let limits: Vec<_> = accounts.of(path).uses.into_iter().map(|of| of.limit).collect();
        assert!(limits.contains(&Limit::PidsMax(self::path(b"/pod"))), "{limits:?}");
        assert!(limits.contains(&Limit::PidsMax(Arc::clone(path))), "{limits:?}");
    }
}

#[test]
fn what_takes_long_to_read_is_read_more_rarely_but_is_not_forgotten() {
    let mut accounts = Accounts::default();
    accounts.meet(&path(BOX), 3, None, at(100));
    for (took, apart) in [(1, 1), (200, 4), (60_000, 30)] {
        let now = accounts.next().unwrap();
        accounts.due(now);
        let full = seen(vec![level(BOX, Some(20), 20, None)]);
        let took = Duration::from_millis(took);
        accounts.take(&[path(BOX)], Seen { took, ..full }, |_| 3, 3, now);
        assert_eq!(accounts.next().unwrap().since(now), Duration::from_secs(apart));
    }
}
