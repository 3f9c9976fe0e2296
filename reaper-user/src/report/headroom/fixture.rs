//! Headrooms and refused forks to report in tests.

use std::time::Duration;

use super::{
    Exhaustion, ForkFailedEvent, HeadroomEvent, Holding, NoLimit, ShownForker, ShownLimit, ZombiesOf,
};
use crate::{
    headroom::{self, Forecast, Headroom, Limit, Nproc, Rate, Use},
    identity::BootTime,
    report::{Event, Process, Seconds, ShownWorkload, Source, fixture},
    workload::Hierarchy,
};

/// How a workload stands to its limits.
pub(in crate::report) fn one() -> HeadroomEvent {
    let now = BootTime(9_000_000_000_000);
    let rate = Rate { per_second: 1.9, plus_minus: 0.2, window: Duration::from_secs(300) };
    let of = |path: &str, max, used| Use {
        limit: Limit::PidsMax(path.as_bytes().into()),
        max,
        used,
        zombies: 3_000,
        threads: Some(40),
        processes: Some(12),
        rate: Some(rate),
        forecast: max.map(|max: u64| Forecast {
            at: now.plus(Duration::from_secs((max - used) * 10 / 19)),
            plus_minus: Duration::from_secs(60),
            rate,
        }),
    };
    let pid_max = Use {
        limit: Limit::PidMax,
        threads: None,
        processes: None,
        forecast: None,
        ..of("", Some(32_768), 4_000)
    };
    let known = Headroom {
        zombies: 3_000,
        rate: Some(rate),
        uses: vec![
            of("/kubepods.slice/kubepods-pod5f1c.slice/cri-containerd-3f2a.scope", None, 3_040),
            of("/kubepods.slice/kubepods-pod5f1c.slice", Some(4_096), 3_042),
            pid_max.clone(),
            Use { limit: Limit::ThreadsMax, max: Some(190_000), ..pid_max },
        ],
        nproc: Some(Nproc { uid: 1_000, limit: Some(96_365) }),
        seen: Some(now),
    };
    let zombie = fixture::never_waited();
    let holding = Holding {
        reported: 2_990,
        holder: Some((Process::from(&zombie.holder), 2_980)),
        cause: Some(zombie.cause),
        site: fixture::counted().0.iter().next().map(|site| site.id),
    };
    let workload = ShownWorkload::new(&zombie.workload, &zombie.named);
    HeadroomEvent::new(workload, &known, Hierarchy::V2, holding, Source::Daemon, 17, (now, fixture::time()))
}

/// The same, where its limit is full and it does not leak.
pub(in crate::report) fn full() -> HeadroomEvent {
    let mut row = HeadroomEvent { rate: None, ..one() };
    let nearest = &mut row.limits[1];
    nearest.used = nearest.limit;
    nearest.exhaustion = Some(Exhaustion {
        seconds: Seconds(Duration::ZERO),
        plus_minus_seconds: Seconds(Duration::ZERO),
        rate: None,
    });
    row
}

/// Headrooms and refused forks, with all that is optional and without.
pub(in crate::report) fn all() -> Vec<Event> {
    let whole = one();
    let bare = HeadroomEvent {
        source: Source::Census,
        holder: None,
        cause: None,
        site: None,
        rate: None,
        nearest: None,
        limits: Vec::new(),
        ..whole.clone()
    };
    let failed = ForkFailedEvent {
        time: fixture::time(),
        count: 10_000,
        total: 10_001,
        cgroups: 1,
        limit: whole.limits.get(1).cloned(),
        no_limit: None,
        forker: None,
        forker_cgroup: Some("/kubepods.slice/kubepods-pod5f1c.slice/cri-containerd-3f2a.scope".into()),
        workload: whole.workload.clone(),
        zombie_share: Some(0.9862),
        zombies_of: vec![ZombiesOf {
            workload: whole.workload.clone(),
            zombies: 3_000,
            holder: whole.holder.clone(),
        }],
        source: headroom::Source::PidsEvents,
    };
    let unknown = ForkFailedEvent {
        count: 1,
        limit: None,
        no_limit: Some(NoLimit::Gone),
        forker_cgroup: None,
        zombie_share: None,
        zombies_of: vec![ZombiesOf { workload: whole.workload.clone(), zombies: 3, holder: None }],
        source: headroom::Source::KernelLog,
        ..failed.clone()
    };
    let forker = ShownForker { pid: 4_711, start_time: BootTime(8_000_000_000_000), comm: "sh".into() };
    let user = Use::new(Limit::Nproc(1_000), Some(40), 40, 30);
    let of_user = ForkFailedEvent {
        limit: Some(ShownLimit::new(&user, Hierarchy::V2, BootTime(0))),
        forker: Some(forker),
        zombie_share: Some(0.75),
        source: headroom::Source::Fexit,
        ..failed.clone()
    };
    let namespace = Use::new(Limit::PidMaxOf(4_026_532_001), Some(400), 380, 0);
    let of_namespace = ForkFailedEvent {
        limit: Some(ShownLimit::new(&namespace, Hierarchy::V2, BootTime(0)).without_zombies()),
        zombie_share: None,
        source: headroom::Source::Kretprobe,
        ..of_user.clone()
    };
    let by_nothing = ForkFailedEvent {
        limit: None,
        no_limit: Some(NoLimit::NoneFull),
        zombie_share: None,
        zombies_of: Vec::new(),
        ..of_user.clone()
    };
    let unread = ForkFailedEvent { no_limit: Some(NoLimit::NotRead), forker: None, ..by_nothing.clone() };
    let several = ForkFailedEvent { cgroups: 3_000, no_limit: Some(NoLimit::Several), ..by_nothing.clone() };
    let read =
        ForkFailedEvent { source: headroom::Source::Reading, zombies_of: Vec::new(), ..failed.clone() };
    let headrooms = [whole, bare, full()].map(|room| Event::Headroom(Box::new(room)));
    headrooms
        .into_iter()
        .chain(
            [failed, unknown, of_user, of_namespace, by_nothing, unread, several, read]
                .map(|failed| Event::ForkFailed(Box::new(failed))),
        )
        .collect()
}
