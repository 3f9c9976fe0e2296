//! Limits, forecasts and refused forks in words.

use std::time::Duration;

use super::{
    Exhaustion, ForkFailedEvent, HeadroomEvent, LimitKind, NoLimit, ShownForker, ShownLimit, ShownRate,
    ZombiesOf,
};
use crate::report::{event::Seconds, evidence::named, listing::Source, numbered, span::shown};

impl ShownLimit {
    /// Which limit, with its number, in words.
    #[must_use]
    pub fn name(&self) -> String {
        let limit = self.limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        let of = match (&self.cgroup, self.uid, self.pid_ns) {
            (Some(cgroup), ..) => format!(" of {cgroup}"),
            (None, Some(uid), _) => format!(" of user {uid}"),
            (None, None, Some(pid_ns)) => format!(" of pid namespace {pid_ns}"),
            (None, None, None) => String::new(),
        };
        format!("{} {limit}{of}", self.kind.name())
    }

    /// How much of it is used, and by whom, in words.
    #[must_use]
    pub fn account(&self) -> String {
        let Some(used) = self.used else {
            return "how much of it is used the kernel does not show".to_owned();
        };
        let mut text = format!("{used} used");
        if let (Some(zombies), Some(share)) = (self.zombies, self.zombie_share) {
            let zombies = numbered(zombies, "of them a zombie", "of them zombies");
            text += &format!(", {zombies} ({})", percent(share));
        }
        if let (Some(threads), Some(processes)) = (self.threads, self.processes) {
            let live = if threads == 1 { "lives" } else { "live" };
            let threads = numbered(threads, "thread", "threads");
            text += &format!(", {threads} of {} {live}", numbered(processes, "process", "processes"));
        }
        text
    }
}

impl ForkFailedEvent {
    /// In a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { count, cgroups, limit, no_limit, forker, workload, zombie_share, zombies_of, .. } = self;
        let mut text = format!("{} in {}", refused(*count), workload.shown());
        let others = cgroups.saturating_sub(1);
        if others > 0 {
            text += &format!(" and {}", numbered(others, "other cgroup", "other cgroups"));
        }
        if let Some(ShownForker { pid, start_time: _, comm }) = forker {
            let last = if others > 0 { ", the last" } else { "" };
            text += &format!("{last} to {comm} ({pid})");
        }
        let Some(limit) = limit else {
            let which = match no_limit {
                Some(NoLimit::NoneFull) => {
                    "it is not known by which limit, if by one: none was full a moment later"
                }
                Some(NoLimit::NotRead) => {
                    "it is not known by which limit: one that may have been full could not be looked at"
                }
                Some(NoLimit::Several) => "by several limits: too many at once to tell of each",
                Some(NoLimit::Gone) | None => "by a limit of a cgroup that is gone",
            };
            return format!("{text}, {which}");
        };
        text += &format!(" (EAGAIN): {}, {}", limit.name(), limit.account());
        if limit.kind == LimitKind::PidMax && limit.used < limit.limit {
            // <https://elixir.bootlin.com/linux/v6.12/source/kernel/pid.c#L206> (`RESERVED_PIDS`)
            text += ", and pids below 300 are given only once";
        }
        if *zombie_share == Some(0.0) {
            text += ": zombies are not the reason";
        }
        let of = |of: &ZombiesOf| {
            let holder = of.holder.as_ref().map(|holder| format!(", held by {}", named(holder)));
            format!("{} of {}{}", of.zombies, of.workload.shown(), holder.unwrap_or_default())
        };
        if !zombies_of.is_empty() {
            text += &format!("; zombies: {}", zombies_of.iter().map(of).collect::<Vec<_>>().join(", "));
        }
        text
    }
}

/// What there is to say of one workload, a sentence each.
pub(crate) fn sentences(row: &HeadroomEvent) -> Vec<String> {
    let HeadroomEvent {
        source,
        zombies,
        reported,
        holder,
        held,
        cause,
        site,
        rate,
        limits,
        fork_failures,
        ..
    } = row;
    let mut head = format!("{}, {reported} of them reported", numbered(*zombies, "zombie", "zombies"));
    if let Some(holder) = holder {
        head += &format!("; {held} held by {}", named(holder));
    }
    if let Some(cause) = cause {
        head += &format!(", {}", cause.as_str());
    }
    if let Some(site) = site {
        head += &format!(", from leak site {site}");
    }
    let when = match (row.nearest(), row.exhaustion(), rate) {
        (Some(nearest), Some(exhaustion), _) => {
            format!("full {}; limit: {}", forecast(exhaustion), nearest.name())
        }
        (_, _, Some(rate)) => {
            format!("{} more: too uncertain, or too far away, to say when a limit is full", pace(rate))
        }
        _ if *source == Source::Census => {
            "how fast the zombies become more only a running daemon sees".to_owned()
        }
        _ => "the zombies do not become more, as far as was seen".to_owned(),
    };
    let mut lines = vec![head, when];
    for (place, limit) in limits.iter().enumerate() {
        let nearest = if Some(place) == row.nearest { "nearest: " } else { "" };
        lines.push(format!("{nearest}{}: {}", limit.name(), limit.account()));
    }
    if *fork_failures > 0 {
        lines.push(format!("{} since the daemon started", refused(*fork_failures)));
    }
    lines
}

/// That a workload's forks were refused, in a line of its own below the table; `None` where none was.
pub(super) fn refusals(row: &HeadroomEvent) -> Option<String> {
    let HeadroomEvent { workload, fork_failures, .. } = row;
    (*fork_failures > 0).then(|| format!("{}: {}", workload.shown(), refused(*fork_failures)))
}

fn refused(count: u64) -> String {
    numbered(count, "fork was refused", "forks were refused")
}

/// `in 3h10m ± 20m at 1.9 zombies/s`, or `now, at 1.9 zombies/s`.
#[must_use]
pub fn forecast(exhaustion: &Exhaustion) -> String {
    let when = left(exhaustion);
    match (exhaustion.rate, exhaustion.seconds.0.is_zero()) {
        (None, _) => when,
        (Some(rate), true) => format!("{when}, at {}", pace(&rate)),
        (Some(rate), false) => format!("in {when} at {}", pace(&rate)),
    }
}

/// `3h10m ± 20m`, or `now`: what is left is rounded down, and by how much that may be wrong is rounded up.
#[must_use]
pub(crate) fn left(exhaustion: &Exhaustion) -> String {
    let Exhaustion { seconds: Seconds(left), plus_minus_seconds: Seconds(plus_minus), rate: _ } = exhaustion;
    if left.is_zero() {
        return "now".to_owned();
    }
    format!("{} ± {}", shown(without_fraction(*left)), shown(rounded_up(*plus_minus)))
}

/// Where a second is left, fractions of one are no news.
fn without_fraction(span: Duration) -> Duration {
    if span < Duration::from_secs(1) { span } else { Duration::from_secs(span.as_secs()) }
}

/// To the smaller of the two units that it is [`shown`] with.
fn rounded_up(span: Duration) -> Duration {
    let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    let unit = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        86_400..8_640_000 => 3_600,
        _ => 86_400,
    };
    Duration::from_secs(seconds.next_multiple_of(unit))
}

/// `1.9 zombies/s`, and for slow ones `3.1 zombies/min`.
#[must_use]
fn pace(rate: &ShownRate) -> String {
    let of = |number: f64| if number < 10.0 { format!("{number:.1}") } else { format!("{number:.0}") };
    match rate.per_second {
        second @ 0.95.. => format!("{} zombies/s", of(second)),
        second if second * 60.0 >= 0.95 => format!("{} zombies/min", of(second * 60.0)),
        second => format!("{} zombies/h", of(second * 3_600.0)),
    }
}

/// `1.9/s`, and for slow ones `3.1/min`: how fast a workload's zombies become more, for a cell under a head that says that.
pub(crate) fn rate_cell(row: &HeadroomEvent) -> String {
    row.rate.as_ref().map_or_else(|| "-".to_owned(), |rate| pace(rate).replace(" zombies", ""))
}

/// `26%`: what is left of the nearest limit, for a cell.
pub(crate) fn free_cell(row: &HeadroomEvent) -> String {
    row.free().map_or_else(|| "-".to_owned(), |free| percent(free).replace(' ', ""))
}

/// `93 %`. What is not all is not said to be, nor what is something to be nothing.
#[must_use]
pub fn percent(part: f64) -> String {
    let percent = part * 100.0;
    let shown = if part > 0.0 && percent < 1.0 {
        "<1".to_owned()
    } else if part < 1.0 && percent > 99.0 {
        ">99".to_owned()
    } else {
        format!("{percent:.0}")
    };
    format!("{shown} %")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Event, headroom::fixture};

    fn rate(per_second: f64) -> ShownRate {
        ShownRate { per_second, plus_minus: 0.2, window_seconds: Seconds(Duration::from_secs(60)) }
    }

    fn exhaustion(ms: u64, plus_minus_ms: u64, rate: Option<ShownRate>) -> Exhaustion {
        let of = |ms| Seconds(Duration::from_millis(ms));
        Exhaustion { seconds: of(ms), plus_minus_seconds: of(plus_minus_ms), rate }
    }

    #[test]
    fn a_forecast_is_said_with_its_uncertainty_and_its_rate() {
        let found = exhaustion(11_400_000, 1_200_000, Some(rate(1.9)));
        assert_eq!(forecast(&found), "in 3h10m ± 20m at 1.9 zombies/s");
        assert_eq!(forecast(&exhaustion(0, 0, Some(rate(1.9)))), "now, at 1.9 zombies/s");
        assert_eq!(forecast(&exhaustion(0, 0, None)), "now");
        let paces = [0.05, 0.002, 21.4].map(|per_second| pace(&rate(per_second)));
        assert_eq!(paces, ["3.0 zombies/min", "7.2 zombies/h", "21 zombies/s"]);
    }

    #[test]
    fn what_is_left_is_rounded_down_and_what_may_be_wrong_of_it_up() {
        for (ms, plus_minus_ms, said) in [
            (10_900, 1_700, "10s ± 2s"),
            (250, 40, "250ms ± 1s"),
            (554_000, 59_001, "9m14s ± 1m"),
            (11_459_000, 3_601_000, "3h10m ± 1h1m"),
            (259_200_000, 86_400_001, "3d ± 1d1h"),
            (2_000_000_000, 999_999_999, "23d3h ± 11d14h"),
        ] {
            assert_eq!(left(&exhaustion(ms, plus_minus_ms, Some(rate(1.0)))), said);
        }
    }

    #[test]
    fn a_share_is_never_rounded_to_all_or_nothing() {
        let shown = [0.0, 0.001, 0.4, 0.936, 0.999, 1.0].map(percent);
        assert_eq!(shown, ["0 %", "<1 %", "40 %", "94 %", ">99 %", "100 %"]);
    }

    #[test]
    fn one_is_said_as_one() {
        let mut row = fixture::one();
        (row.zombies, row.reported, row.held, row.fork_failures) = (1, 1, 1, 1);
        let nearest = &mut row.limits[1];
        (nearest.zombies, nearest.threads, nearest.processes) = (Some(1), Some(1), Some(1));
        let text = sentences(&row).join("\n") + "\n" + &refusals(&row).unwrap();
        for part in [
            "1 zombie, 1 of them reported; 1 held by app (4700)",
            "1 of them a zombie",
            "1 thread of 1 process lives",
            "\n1 fork was refused since the daemon started",
            ": 1 fork was refused",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        row.fork_failures = 0;
        assert_eq!(refusals(&row), None);
    }

    #[test]
    fn a_holder_whose_name_is_not_known_is_a_pid() {
        let mut row = fixture::one();
        row.holder.as_mut().unwrap().comm = None;
        assert!(sentences(&row)[0].contains("2980 held by pid 4700, never-waited"), "{:?}", sentences(&row));
    }

    #[test]
    fn a_limit_that_is_full_is_full_now_also_where_nothing_becomes_more() {
        let row = fixture::full();
        assert_eq!(
            sentences(&row)[1],
            "full now; limit: pids.max 4096 of /kubepods.slice/kubepods-pod5f1c.slice"
        );
        let becomes_more = HeadroomEvent { nearest: None, ..row.clone() };
        assert_eq!(sentences(&becomes_more)[1], "the zombies do not become more, as far as was seen");
        let census = HeadroomEvent { source: Source::Census, ..becomes_more };
        assert!(sentences(&census)[1].contains("only a running daemon"));
    }

    #[test]
    fn a_refused_fork_is_a_sentence_that_names_limit_share_and_holder() {
        let sentences: Vec<_> = fixture::all()
            .iter()
            .filter_map(
                |event| if let Event::ForkFailed(failed) = event { Some(failed.sentence()) } else { None },
            )
            .collect();
        for part in
            ["10000 forks were refused in", "pids.max 4096", "3000 of them zombies", "held by app (4700)"]
        {
            assert!(sentences[0].contains(part), "{}", sentences[0]);
        }
        let of_user =
            " to sh (4711) (EAGAIN): RLIMIT_NPROC 40 of user 1000, 40 used, 30 of them zombies (75 %)";
        assert!(sentences[2].contains(of_user), "{}", sentences[2]);
        assert!(
            sentences[3].contains("kernel.pid_max 400 of pid namespace 4026532001, 380 used")
                && sentences[3].contains("pids below 300 are given only once"),
            "{}",
            sentences[3]
        );
        assert!(
            sentences[4].ends_with("it is not known by which limit, if by one: none was full a moment later")
        );
        assert!(sentences[1].starts_with("1 fork was refused in") && sentences[1].contains("is gone"));
        assert!(!sentences.iter().any(|sentence| sentence.contains("not the reason")));
        assert!(
            sentences[6]
                .contains(" and 2999 other cgroups, the last to sh (4711), by several limits: too many"),
            "{}",
            sentences[6]
        );
        let [.., Event::ForkFailed(last)] = &fixture::all()[..] else { panic!("no refused fork") };
        let without = ForkFailedEvent { zombie_share: Some(0.0), ..(**last).clone() };
        assert!(without.sentence().ends_with(": zombies are not the reason"), "{}", without.sentence());
        let two = ForkFailedEvent { cgroups: 2, ..without };
        assert!(two.sentence().contains(" and 1 other cgroup (EAGAIN): "), "{}", two.sentence());
    }
}
