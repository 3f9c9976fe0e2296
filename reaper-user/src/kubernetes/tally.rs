//! What stands in each pod, and when that is to be told. No input and no output: what time it is comes from outside.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    text::Untrusted,
    workload::{Kind, Workload},
    zombie::{Cause, Party, Zombie},
};

/// From the first zombie to its telling: what comes at the same time is told at once.
const SETTLES: Duration = Duration::from_secs(3);

/// Pods that are remembered. A node runs a few hundred.
const PODS: usize = 2_048;

/// The condition is told again so often where nothing has changed, so that it is seen that somebody looks.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// How long one of which no zombie stands is remembered after it was told, so that its Event goes on counting.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// What came of hearing of a zombie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Something has become due that was not.
    pub(super) news: bool,
    /// It is of a pod that there is no room for.
    pub(super) overflowed: bool,
}

/// Which Event something is told in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The pod's UID.
    pub(super) pod: Untrusted,
    pub(super) cause: Cause,
}

/// Zombies of one pod and one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// That stand now.
    pub(super) standing: u64,
    /// That were reported since the daemon's start.
    pub(super) reported: u64,
    /// Whose the latest is.
    pub(super) workload: Workload,
    /// Who holds the latest.
    pub(super) holder: Party,
    /// When the first and the latest were reported.
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    due: Option<Instant>,
    told: Option<Instant>,
}

/// What is to be said of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) is_high: bool,
    /// Zombies that stand, of all workloads.
    pub(super) standing: u64,
    /// Where most of them are, of pods.
    pub(super) most: Option<(Workload, u64)>,
}

#[derive(Debug)]
struct Node {
    limit: u64,
    is_high: bool,
    due: Instant,
}

#[derive(Debug)]
pub(super) struct Tally {
    events: bool,
    apart: Duration,
    pods: HashMap<Untrusted, BTreeMap<Cause, Group>>,
    standing: u64,
    node: Option<Node>,
}

impl Tally {
    pub(super) fn new(events: bool, node_zombies: Option<u64>, apart: Duration) -> Self {
        // That there are few is told at once: an earlier daemon may have said otherwise.
        let node = node_zombies.map(|limit| Node { limit, is_high: false, due: Instant::now() });
        Self { events, apart, pods: HashMap::new(), standing: 0, node }
    }

    /// A zombie stands, and was `reported` now or by an earlier daemon; `time` is now on the wall.
    pub(super) fn stands(&mut self, zombie: &Zombie, reported: bool, now: Instant, time: Timestamp) -> Heard {
        self.standing += 1;
        let Heard { news, overflowed } = self.add(zombie, reported, now, time);
        Heard { news: self.judge_node(now) || news, overflowed }
    }

    /// One that stood is gone.
    pub(super) fn gone(&mut self, zombie: &Zombie, now: Instant) -> Heard {
        self.standing = self.standing.saturating_sub(1);
        let groups = pod_of(&zombie.workload).and_then(|uid| self.pods.get_mut(uid));
        if let Some(group) = groups.and_then(|groups| groups.get_mut(&zombie.cause)) {
            group.standing = group.standing.saturating_sub(1);
        }
        Heard { news: self.judge_node(now), overflowed: false }
    }

    fn add(&mut self, zombie: &Zombie, reported: bool, now: Instant, time: Timestamp) -> Heard {
        let Zombie { workload, holder, cause, .. } = zombie;
        let Some(uid) = pod_of(workload) else { return Heard::default() };
        if !self.pods.contains_key(uid) && self.pods.len() >= PODS {
            self.forget(now);
            if self.pods.len() >= PODS {
                return Heard { news: false, overflowed: true };
            }
        }
        let group = self.pods.entry(uid.clone()).or_default().entry(*cause).or_insert_with(|| Group {
            standing: 0,
            reported: 0,
            workload: workload.clone(),
            holder: holder.clone(),
            first: time,
            last: time,
            due: None,
            told: None,
        });
        group.standing += 1;
        group.reported += 1;
        group.last = time;
        group.workload.clone_from(workload);
        group.holder.clone_from(holder);
        // Of what an earlier daemon has reported that one has told.
        let news = self.events && reported && group.due.is_none();
        if news {
            let settled = now + SETTLES;
            group.due = Some(group.told.map_or(settled, |told| settled.max(told + self.apart)));
        }
        Heard { news, overflowed: false }
    }

    /// Forgets pods of which nothing stands and nothing was told lately.
    fn forget(&mut self, now: Instant) {
        self.pods.retain(|_, groups| {
            groups.retain(|_, group| {
                group.standing > 0 || group.told.is_some_and(|told| now < told + REMEMBERED)
            });
            !groups.is_empty()
        });
    }

    /// Whether there is something new to be said of the node.
    fn judge_node(&mut self, now: Instant) -> bool {
        let Some(node) = &mut self.node else { return false };
        // Half of it is left before it is said that all is well: a condition that flaps evicts pods for nothing.
        let is_high = if node.is_high { self.standing > node.limit / 2 } else { self.standing >= node.limit };
        let news = is_high != node.is_high;
        if news {
            node.is_high = is_high;
            node.due = node.due.min(now + SETTLES);
        }
        news
    }

    /// When the next is to be told.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let groups = self.pods.values().flat_map(BTreeMap::values).filter_map(|group| group.due);
        groups.chain(self.node.as_ref().map(|node| node.due)).min()
    }

    /// The Events that are due. Of what has gone meanwhile nothing is said.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Place, Group)> {
        let mut due = Vec::new();
        for (pod, groups) in &mut self.pods {
            for (cause, group) in groups {
                if group.due.is_some_and(|due| due <= now) {
                    if group.standing == 0 {
                        group.due = None;
                    } else {
                        due.push((Place { pod: pod.clone(), cause: *cause }, group.clone()));
                    }
                }
            }
        }
        due
    }

    /// It was told as it was then. What came meanwhile is told when it may be.
    pub(super) fn told(&mut self, place: &Place, reported: u64, now: Instant) {
        let apart = self.apart;
        if let Some(group) = self.group(place) {
            group.told = Some(now);
            group.due = (group.reported > reported).then(|| now + apart);
        }
    }

    /// It could not be told, and is tried again at that time.
    pub(super) fn put_off(&mut self, place: &Place, until: Instant) {
        if let Some(group) = self.group(place) {
            group.due = Some(until);
        }
    }

    fn group(&mut self, place: &Place) -> Option<&mut Group> {
        self.pods.get_mut(&place.pod)?.get_mut(&place.cause)
    }

    /// What is to be said of the node, where that is due.
    pub(super) fn node_due(&self, now: Instant) -> Option<Pressure> {
        self.node.as_ref().filter(|node| node.due <= now).map(|node| {
            let standing =
                |groups: &BTreeMap<Cause, Group>| groups.values().map(|group| group.standing).sum();
            let most = self.pods.values().max_by_key(|groups| standing(groups));
            let most =
                most.and_then(|groups| Some((groups.values().next()?.workload.clone(), standing(groups))));
            Pressure {
                is_high: node.is_high,
                standing: self.standing,
                most: most.filter(|(_, most)| *most > 0),
            }
        })
    }

    /// It was told so; it may be otherwise by now.
    pub(super) fn node_told(&mut self, was_high: bool, now: Instant) {
        if let Some(node) = &mut self.node {
            node.due = if node.is_high == was_high { now + HEARTBEAT } else { now };
        }
    }

    /// It could not be told, and is tried again at that time.
    pub(super) fn node_put_off(&mut self, until: Instant) {
        if let Some(node) = &mut self.node {
            node.due = until;
        }
    }
}

/// The pod that it is in.
fn pod_of(workload: &Workload) -> Option<&Untrusted> {
    workload.pod_uid.as_ref().filter(|_| matches!(workload.kind, Kind::Pod | Kind::Container))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    const APART: Duration = Duration::from_secs(300);

    fn zombie(pod: &str, cause: Cause) -> Zombie {
        let mut zombie = fixture::never_waited();
        zombie.workload.pod_uid = Some(pod.into());
        zombie.cause = cause;
        zombie
    }

    impl Tally {
        fn one_more(&mut self, pod: &str, cause: Cause, now: Instant) -> Heard {
            self.stands(&zombie(pod, cause), true, now, Timestamp::UNIX_EPOCH)
        }

        fn one_less(&mut self, pod: &str, cause: Cause, now: Instant) {
            self.gone(&zombie(pod, cause), now);
        }
    }

    fn events() -> (Tally, Instant) {
        (Tally::new(true, None, APART), Instant::now())
    }

    fn standing(due: &[(Place, Group)]) -> Vec<(&str, Cause, u64)> {
        due.iter().map(|(place, group)| (place.pod.as_str(), place.cause, group.standing)).collect()
    }

    #[test]
    fn zombies_of_a_pod_and_a_cause_are_told_together_and_not_again_before_their_time() {
        let (mut tally, start) = events();
        for number in 0..23 {
            let heard = tally.one_more("a", Cause::Adopted, start);
            assert_eq!(heard, Heard { news: number == 0, overflowed: false });
        }
        tally.one_more("a", Cause::NeverWaited, start + SETTLES / 2);
        assert_eq!(tally.due(start), []);
        assert_eq!(tally.next_due(), Some(start + SETTLES));
        let due = tally.due(start + SETTLES);
        assert_eq!(standing(&due), [("a", Cause::Adopted, 23)]);
        tally.told(&due[0].0, due[0].1.reported, start + SETTLES);
        let other = tally.due(start + SETTLES * 2);
        assert_eq!(standing(&other), [("a", Cause::NeverWaited, 1)]);
        tally.told(&other[0].0, 1, start + SETTLES * 2);
        assert_eq!(tally.next_due(), None, "nothing new, nothing to tell");

        tally.one_more("a", Cause::Adopted, start + SETTLES * 3);
        tally.one_less("a", Cause::Adopted, start + SETTLES * 3);
        assert_eq!(tally.next_due(), Some(start + SETTLES + APART));
        let again = tally.due(start + SETTLES + APART);
        assert_eq!((again[0].1.standing, again[0].1.reported), (23, 24));
    }

    #[test]
    fn what_came_while_it_was_told_is_told_later_and_what_failed_is_put_off() {
        let (mut tally, start) = events();
        tally.one_more("a", Cause::Adopted, start);
        let now = start + SETTLES;
        let due = tally.due(now);
        tally.one_more("a", Cause::Adopted, now);
        tally.told(&due[0].0, due[0].1.reported, now);
        assert_eq!(tally.next_due(), Some(now + APART));
        tally.put_off(&due[0].0, now + APART * 2);
        assert_eq!((tally.next_due(), tally.due(now + APART).len()), (Some(now + APART * 2), 0));
    }

    #[test]
    fn of_what_has_gone_before_it_was_told_nothing_is_said() {
        let (mut tally, start) = events();
        tally.one_more("a", Cause::Adopted, start);
        tally.one_less("a", Cause::Adopted, start + SETTLES / 2);
        assert_eq!(tally.due(start + SETTLES), []);
        assert_eq!(tally.next_due(), None);
    }

    #[test]
    fn pods_without_zombies_give_way_and_what_finds_no_place_is_counted() {
        let (mut tally, start) = events();
        let name = |number: usize| format!("pod-{number}");
        for number in 0..PODS {
            assert!(!tally.one_more(&name(number), Cause::Adopted, start).overflowed);
        }
        assert!(tally.one_more("one more", Cause::Adopted, start).overflowed);
        tally.one_less(&name(0), Cause::Adopted, start);
        assert!(!tally.one_more("one more", Cause::Adopted, start).overflowed);
        assert_eq!(tally.pods.len(), PODS);
    }

    #[test]
    fn what_an_earlier_daemon_has_reported_counts_and_is_no_news() {
        let (mut tally, start) = events();
        tally.stands(&zombie("a", Cause::Adopted), false, start, Timestamp::UNIX_EPOCH);
        assert_eq!(tally.next_due(), None);
        tally.one_more("a", Cause::Adopted, start);
        assert_eq!(tally.due(start + SETTLES)[0].1.standing, 2);
    }

    #[test]
    fn what_is_in_no_pod_has_no_event() {
        let (mut tally, start) = events();
        let mut alone = zombie("a", Cause::Adopted);
        alone.workload.pod_uid = None;
        tally.stands(&alone, true, start, Timestamp::UNIX_EPOCH);
        assert_eq!((tally.next_due(), tally.standing), (None, 1));
    }

    #[test]
    fn the_node_is_told_of_at_once_and_then_when_many_came_or_half_have_gone() {
        let start = Instant::now();
        let mut tally = Tally::new(false, Some(10), APART);
        let now = start + SETTLES;
        let first = tally.node_due(now).unwrap();
        assert_eq!((first.is_high, first.standing), (false, 0));
        tally.node_told(false, now);
        assert_eq!((tally.node_due(now), tally.next_due()), (None, Some(now + HEARTBEAT)));
        for _ in 0..9 {
            assert!(!tally.one_more("a", Cause::Adopted, now).news);
        }
        assert!(tally.one_more("a", Cause::Adopted, now).news, "ten are many");
        let many = tally.node_due(now + SETTLES).unwrap();
        assert_eq!((many.is_high, many.standing), (true, 10));
        // One goes while that is told, and the others before the next time.
        tally.one_less("a", Cause::Adopted, now);
        tally.node_told(true, now + SETTLES);
        for _ in 0..3 {
            tally.one_less("a", Cause::Adopted, now + SETTLES);
        }
        assert_eq!(tally.node_due(now + SETTLES * 2), None, "six are still many");
        tally.one_less("a", Cause::Adopted, now + SETTLES);
        assert!(!tally.node_due(now + SETTLES * 2).unwrap().is_high);
    }
}
