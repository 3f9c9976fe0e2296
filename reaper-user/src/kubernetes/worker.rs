//! Tells what is due, and what could not be told later.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    sync::oneshot,
    time::{sleep_until, timeout},
};

use super::{
    FAREWELL, Settings, Shared,
    api::{ApiError, Cluster, Pod},
    tally::{Group, Place, Pressure},
};
use crate::{
    config::Span,
    names::{Named, Namer},
    report::ShownWorkload,
    workload::Workload,
};

/// After the first failure nothing is told for this long, after each further one for twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// But not for longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Between two requests: what a whole node has to say does not come down on the API server at once.
const REQUESTS_APART: Duration = Duration::from_millis(100);

/// When a pod is looked at again whose names were not known.
const UNNAMED: Duration = Duration::from_secs(5);

/// Log lines about failures are not closer together than this.
const LOG_APART: Duration = Duration::from_secs(60);

/// Works until it is told to stop, or until whoever could tell it has gone.
pub(super) async fn work(
    settings: Settings,
    shared: Arc<Shared>,
    names: Namer,
    mut stop: oneshot::Receiver<()>,
) {
    let mut worker = Worker { settings, shared, names, cluster: None, pause: None, node: None, said: None };
    loop {
        let due = worker.wakes_at();
        let wake = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = &mut stop => break,
            () = worker.shared.news.notified() => continue,
            () = wake => {}
        }
        tokio::select! {
            _ = &mut stop => break,
            () = worker.tell() => {}
        }
    }
    if worker.node.is_some() {
        // Where it cannot be said in time, the time of the latest heartbeat says it.
        let _late = timeout(FAREWELL, worker.leave()).await;
    }
}

struct Worker {
    settings: Settings,
    shared: Arc<Shared>,
    names: Namer,
    cluster: Option<Cluster>,
    /// Nothing is told until then; and how long that is after the latest failure.
    pause: Option<(Instant, Duration)>,
    /// What was told of the node, and since when it is so.
    node: Option<(bool, Timestamp)>,
    /// When it was last said that something failed.
    said: Option<Instant>,
}

impl Worker {
    fn wakes_at(&self) -> Option<Instant> {
        let due = self.shared.tally().next_due()?;
        Some(self.pause.map_or(due, |(until, _)| due.max(until)))
    }

    /// Tells all that is due, until something fails.
    async fn tell(&mut self) {
        let done = self.try_to_tell().await;
        match done {
            Ok(()) => {
                if self.pause.take().is_some() {
                    tracing::info!("the cluster is told again");
                    self.said = None;
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    async fn try_to_tell(&mut self) -> Result<(), ApiError> {
        let now = Instant::now();
        let (events, pressure) = {
            let mut tally = self.shared.tally();
            (tally.due(now), tally.node_due(now))
        };
        if events.is_empty() && pressure.is_none() {
            return Ok(());
        }
        let cluster = self.cluster().await?;
        if let Some(pressure) = pressure {
            self.tell_node(&cluster, &pressure).await?;
        }
        for (place, group) in events {
            self.tell_one(&cluster, &place, &group).await?;
        }
        // Not where something failed: who to tell may have been read wrongly, or be another one by now.
        self.cluster = Some(cluster);
        Ok(())
    }

    async fn cluster(&mut self) -> Result<Cluster, ApiError> {
        match self.cluster.take() {
            Some(cluster) => Ok(cluster),
            None => {
                let Settings { kubeconfig, node, .. } = &self.settings;
                Cluster::open(kubeconfig.as_deref(), node.clone()).await
            }
        }
    }

    /// Nobody looks at the node any more.
    async fn leave(&mut self) -> Result<(), ApiError> {
        self.cluster().await?.leave_node().await
    }

    async fn tell_node(&mut self, cluster: &Cluster, pressure: &Pressure) -> Result<(), ApiError> {
        let name =
            |(workload, _): &(Workload, u64)| ShownWorkload::new(workload, &self.names.of(workload)).shown();
        let most = pressure.most.as_ref().map(name);
        let since = match self.node {
            Some((was_high, since)) if was_high == pressure.is_high => since,
            _ => Timestamp::now(),
        };
        let told = cluster.tell_node(pressure, most.as_deref(), since).await;
        if self.is_done(told, "the node's condition")? {
            self.node = Some((pressure.is_high, since));
            self.shared.tally().node_told(pressure.is_high, Instant::now());
        } else {
            self.shared.tally().node_put_off(Instant::now() + LONGEST_PAUSE);
        }
        Ok(())
    }

    async fn tell_one(&mut self, cluster: &Cluster, place: &Place, group: &Group) -> Result<(), ApiError> {
        let named = self.names.of(&group.workload);
        let Some(pod) = named.names().and_then(Pod::of) else {
            let mut tally = self.shared.tally();
            if named == Named::Pending {
                tally.put_off(place, Instant::now() + UNNAMED);
            } else {
                // Nobody knows it: the next zombie of it is the next occasion.
                tally.told(place, group.reported, Instant::now());
            }
            return Ok(());
        };
        let told = cluster.tell(place, group, &pod).await;
        if self.is_done(told, "an event")? {
            self.shared.tally().told(place, group.reported, Instant::now());
        } else {
            self.shared.tally().put_off(place, Instant::now() + self.settings.apart);
        }
        tokio::time::sleep(REQUESTS_APART).await;
        Ok(())
    }

    /// Whether it was told; not where this one thing was refused, whatever becomes of others. An error is for all.
    fn is_done(&mut self, told: Result<(), ApiError>, what: &str) -> Result<bool, ApiError> {
        match told {
            Ok(()) => {
                self.shared.counts.told.fetch_add(1, Relaxed);
                Ok(true)
            }
            Err(error) if error.is_of_one() => {
                self.count_failure(&format!("{what}: {error}"));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn fail(&mut self, error: &ApiError) {
        let lasts = self.pause.map_or(FIRST_PAUSE, |(_, lasts)| (lasts * 2).min(LONGEST_PAUSE));
        self.pause = Some((Instant::now() + lasts, lasts));
        self.count_failure(&format!("{error}; it is tried again in {}", Span(lasts)));
    }

    fn count_failure(&mut self, why: &str) {
        self.shared.counts.failed.fetch_add(1, Relaxed);
        if self.said.is_none_or(|said| said.elapsed() >= LOG_APART) {
            self.said = Some(Instant::now());
            tracing::warn!("the cluster is not told of zombies ([kubernetes]): {why}");
        }
    }
}
