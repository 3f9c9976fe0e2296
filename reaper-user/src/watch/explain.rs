//! What a daemon knows of one pid: the answer to `reaper explain`.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{Watch, leaks::moment};
use crate::{
    identity::BootTime,
    report::{Event, SiteEvent, ZombieEvent, is_within},
    text::Untrusted,
};

/// Who has asked for a list, and for which.
#[derive(Debug)]
pub(super) enum Reply {
    /// All that stand, or those that died in this cgroup and below it.
    Listing(Option<Untrusted>, oneshot::Sender<super::Listing>),
    /// What is known of a pid.
    About(u32, oneshot::Sender<Vec<Event>>),
}

impl Watch {
    /// A list is complete: hands it over. Nobody may wait for it any more: then there is nothing to do.
    pub(super) fn hand_over(&mut self, reply: Reply, zombies: Vec<(u64, ZombieEvent)>, now: BootTime) {
        let breakers = self.remedies.open_breakers(now);
        match reply {
            Reply::Listing(_, reply) => {
                let zombies = zombies.into_iter().map(|(_, zombie)| zombie).collect();
                let _left = reply.send(super::Listing { zombies, breakers });
            }
            Reply::About(pid, reply) => {
                let _left = reply.send(self.explain(pid, zombies, now));
            }
        }
    }

    fn explain(&mut self, pid: u32, mut zombies: Vec<(u64, ZombieEvent)>, now: BootTime) -> Vec<Event> {
        let itself = zombies.iter().any(|(_, zombie)| zombie.pid == pid);
        zombies.retain(|(_, zombie)| if itself { zombie.pid == pid } else { zombie.holder.pid == pid });
        let mut events = Vec::new();
        if itself && let Some((id, zombie)) = zombies.first() {
            let rules = self.remedies.outlook(*id, zombie, self.standing.has(*id), now);
            events.push(Event::Outlook(Box::new(rules)));
        }
        let mut known = BTreeSet::new();
        for site in zombies.iter().filter_map(|(id, _)| self.sites.of_zombie(*id)) {
            if known.insert((site.id, site.first.boot)) {
                let site = SiteEvent::new(site, &self.sites, None, moment(now), &self.describer.names);
                events.push(Event::LeakSite(Box::new(site)));
            }
        }
        let holders: BTreeSet<_> = zombies.iter().map(|(_, zombie)| zombie.holder.pid).collect();
        let breakers = self.remedies.open_breakers(now).into_iter();
        let of_it = breakers.filter(|breaker| holders.contains(&breaker.holder.pid));
        events.extend(of_it.map(|breaker| Event::Breaker(Box::new(breaker))));
        let first = zombies.first().and_then(|(id, _)| self.describer.kernel.record(*id));
        if let Some(record) = first
            && let Some(headroom) = self.headroom_of(self.describer.cgroups(&record), now)
        {
            events.push(Event::Headroom(Box::new(headroom)));
        }
        events.extend(zombies.into_iter().map(|(_, zombie)| Event::Zombie(Box::new(zombie))));
        events
    }

    /// Looks at all zombies anew, or at one pid's where that is one, for whoever asks.
    pub(super) fn look_for(&mut self, reply: Reply) -> Result<(), super::WatchError> {
        // All of them anew: holders die and are replaced while a zombie stands.
        let mut records = Vec::new();
        self.describer.kernel.each_dead(|record| records.push(record))?;
        records.extend(self.standing.ids().filter_map(|id| self.describer.kernel.record(id)));
        if let Reply::About(pid, _) = &reply
            && records.iter().any(|record| record.tgid() == *pid)
        {
            records.retain(|record| record.tgid() == *pid);
        }
        self.describer.look_up_v1()?;
        if let Reply::Listing(Some(cgroup), _) = &reply {
            records.retain(|record| {
                let [v2, v1] = self.describer.cgroups(record);
                self.describer.workloads.of(v2, v1).cgroup.is_some_and(|own| is_within(&own, cgroup))
            });
        }
        let requests =
            records.iter().map(|record| self.request(crate::ledger::Due::Report, record)).collect();
        let number = self.lists.open(reply);
        if self.observer.ask(crate::observe::Purpose::List(number), requests).is_err() {
            self.lists.refuse(number);
        }
        Ok(())
    }
}
