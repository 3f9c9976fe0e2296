use std::{collections::HashSet, sync::Arc};

use super::*;
use crate::{
    origin::fixture,
    workload::{Kind, Runtime},
};

fn workload(id: &str) -> Workload {
    Workload {
        kind: Kind::Container,
        id: Some(id.into()),
        runtime: Some(Runtime::Oci),
        pod_uid: None,
        unit: None,
        cgroup: Some(format!("/{id}").as_str().into()),
    }
}

fn at(seconds: u64) -> Moment {
    let wall: Timestamp = "2026-02-03T14:00:00Z".parse().unwrap();
    Moment {
        boot: BootTime((1_000_000 + seconds) * 1_000_000_000),
        wall: wall + jiff::SignedDuration::from_secs(seconds.try_into().unwrap()),
    }
}

fn sites(capacity: usize) -> Sites {
    Sites::new(capacity, at(0))
}

/// The zombie was forked at this line of this workload's program.
fn leak(sites: &mut Sites, zombie: u64, line: u32, of: &str, seconds: u64) {
    let (comm, origin, workload) = ("chrome".into(), fixture::exact(line), workload(of));
    sites.add(Leak { zombie, comm: &comm, origin: &origin, workload: &workload }, at(seconds));
}

fn line(site: &Site) -> u32 {
    site.origin.stack.as_ref().unwrap().frames[2].line.unwrap()
}

/// (line, workload, standing, total) of each site, sorted.
fn counts(sites: &Sites) -> Vec<(u32, String, u64, u64)> {
    let mut all: Vec<_> = sites
        .iter()
        .map(|site| (line(site), site.workload.id.as_ref().unwrap().to_string(), site.standing, site.total))
        .collect();
    all.sort();
    all
}

#[test]
fn two_lines_and_two_workloads_are_three_sites_with_their_counts() {
    let mut sites = sites(10);
    for zombie in 0..30 {
        leak(&mut sites, zombie, if zombie % 3 == 0 { 58 } else { 42 }, "a", zombie);
    }
    leak(&mut sites, 30, 42, "b", 40);
    for zombie in 0..6 {
        sites.remove(zombie);
    }
    assert_eq!(
        counts(&sites),
        [(42, "a".to_owned(), 16, 20), (42, "b".to_owned(), 1, 1), (58, "a".to_owned(), 8, 10)]
    );
    let of_42: HashSet<_> = sites.iter().filter(|site| line(site) == 42).map(|site| site.id).collect();
    assert_eq!(of_42.len(), 1, "the same line has the same id in both");
    let site = sites.iter().find(|site| line(site) == 58).unwrap();
    assert_eq!((site.first, site.last), (at(0), at(27)));
}

#[test]
fn a_zombie_that_is_told_of_again_is_counted_once_and_one_that_is_unknown_not_at_all() {
    let mut sites = sites(10);
    leak(&mut sites, 1, 42, "a", 0);
    leak(&mut sites, 1, 42, "a", 1);
    sites.remove(2);
    assert_eq!(counts(&sites), [(42, "a".to_owned(), 1, 1)]);
    sites.remove(1);
    sites.remove(1);
    assert_eq!(counts(&sites), [(42, "a".to_owned(), 0, 1)]);
    assert_eq!(sites.sums().qualities, [1, 0, 0, 0]);
}

#[test]
fn the_least_recently_seen_give_way_and_are_counted() {
    let mut sites = sites(8);
    for (zombie, of) in (0..8).zip(["a", "b", "c", "d", "e", "f", "g", "h"]) {
        leak(&mut sites, zombie, 1, of, zombie);
    }
    // Seen again, and so not next.
    leak(&mut sites, 10, 1, "a", 10);
    leak(&mut sites, 11, 2, "a", 11);
    let of = |sites: &Sites| counts(sites).into_iter().map(|(_, of, ..)| of).collect::<Vec<_>>().join("");
    assert_eq!(of(&sites), "acdefgha");
    assert_eq!((sites.sums().forgotten_sites, sites.sums().forgotten_zombies), (1, 1));
    // The zombie of one that gave way goes, and that one comes again: it begins anew.
    leak(&mut sites, 12, 1, "b", 12);
    sites.remove(1);
    assert!(counts(&sites).contains(&(1, "b".to_owned(), 1, 1)), "{:?}", counts(&sites));
    assert_eq!((sites.sums().forgotten_sites, sites.sums().forgotten_zombies), (2, 2));
}

#[test]
fn a_workload_that_makes_up_stacks_drives_out_its_own() {
    let mut sites = sites(40);
    for zombie in 0..20 {
        leak(&mut sites, zombie, 1, &format!("quiet{zombie}"), zombie);
    }
    for zombie in 100..5_100 {
        leak(&mut sites, zombie, u32::try_from(zombie).unwrap(), "noisy", zombie);
    }
    let quiet = sites.iter().filter(|site| site.workload != workload("noisy")).count();
    assert_eq!((quiet, sites.iter().count()), (20, 40));
    assert_eq!(sites.sums().forgotten_sites, 5_000 - 20);
}

#[test]
fn what_is_kept_does_not_grow_with_what_is_counted() {
    let mut sites = sites(16);
    for zombie in 0..10_000 {
        leak(&mut sites, zombie, u32::try_from(zombie % 1_000).unwrap(), &format!("w{}", zombie % 7), zombie);
        sites.remove(zombie);
    }
    let Sites { sites: kept, numbers, turns, turns_of, standing, .. } = &sites;
    assert_eq!((kept.len(), numbers.len(), turns.len(), standing.len()), (16, 16, 16, 0));
    assert_eq!(turns_of.values().map(BTreeMap::len).sum::<usize>(), 16);
    let counted: u64 = sites.iter().map(|site| site.total).sum();
    assert_eq!(counted + sites.sums().forgotten_zombies, 10_000);
}

#[test]
fn ten_thousand_leaks_at_two_lines_are_counted_exactly() {
    let mut sites = sites(4_096);
    for zombie in 0..10_000 {
        leak(&mut sites, zombie, if zombie % 10 < 3 { 42 } else { 58 }, "a", zombie / 100);
    }
    for zombie in 0..10_000 {
        if zombie % 4 == 0 {
            sites.remove(zombie);
        }
    }
    let expected = |takes: fn(u64) -> bool| {
        let all = (0..10_000).filter(|zombie| takes(zombie % 10));
        (all.clone().filter(|zombie| zombie % 4 != 0).count() as u64, all.count() as u64)
    };
    let (few, many) = (expected(|last| last < 3), expected(|last| last >= 3));
    assert_eq!(counts(&sites), [(42, "a".to_owned(), few.0, few.1), (58, "a".to_owned(), many.0, many.1)]);
}

#[test]
fn a_site_is_no_better_than_its_worst_origin_and_keeps_the_names_that_were_read() {
    let mut sites = sites(4);
    let (comm, workload) = ("sh".into(), workload("a"));
    let named = Origin { quality: Quality::Exact, ..fixture::approximate() };
    let mut bare = fixture::approximate();
    for frame in bare.stack.iter_mut().flat_map(|stack| &mut Arc::make_mut(stack).frames) {
        (frame.function, frame.file, frame.line) = (None, None, None);
    }
    for (zombie, origin) in (1..).zip([&named, &bare]) {
        sites.add(Leak { zombie, comm: &comm, origin, workload: &workload }, at(zombie));
    }
    let [site] = sites.iter().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((site.quality, site.total), (Quality::Approximate, 2));
    assert_eq!(site.origin.stack, named.stack);
    assert_eq!(sites.sums().qualities, [1, 1, 0, 0]);
}

#[test]
fn a_rate_is_of_the_time_since_the_daemon_began_where_that_is_shorter() {
    let mut sites = sites(4);
    for zombie in 0..60 {
        leak(&mut sites, zombie, 42, "a", zombie * 10);
    }
    let site = sites.iter().next().unwrap();
    let within = |span| sites.within(site, Duration::from_secs(span), at(600).boot).unwrap();
    assert_eq!(within(3_600), Within { count: 60, span: Duration::from_secs(600) });
    assert!((within(3_600).per_hour() - 360.0).abs() < 1e-6);
    // The minute that the span begins in is counted whole.
    let short = within(60);
    assert!((6..=12).contains(&short.count) && short.span < Duration::from_secs(120), "{short:?}");
}
