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
    Seen { number: 1, levels, node: Some(node), holders: Vec::new(), nprocs: Vec::new() }
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
        holders: vec![holder],
        nprocs: found.map(|nproc| (holder, nproc)).into_iter().collect(),
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
