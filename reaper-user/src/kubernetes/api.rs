//! What is sent, and the client that sends it. Only this module knows Kubernetes' types.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, Node, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use thiserror::Error;
use tokio::time::timeout;

use super::{
    tally::{Group, Place, Pressure},
    text,
};
use crate::{names::Names, text::Untrusted};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who reports, as the API names it.
const COMPONENT: &str = "reaper";

/// The reason of an Event: what people filter by.
const REASON: &str = "ZombiesStanding";

/// The type of the node's condition.
const CONDITION: &str = "ZombiePressure";

/// The longest name of an object.
const LONGEST_NAME: usize = 253;

/// Why it could not be told.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    /// Who to tell, and as whom, could not be read.
    #[error("the cluster's address and the credentials for it: {0}")]
    Config(Untrusted),
    /// It said no.
    #[error("the API server refused it ({0}): {1}")]
    Refused(u16, Untrusted),
    /// It was not reached, or not understood.
    #[error("{0}")]
    Failed(Untrusted),
    /// It took too long.
    #[error("no answer within {}", crate::config::Span(PATIENCE))]
    TimedOut,
}

impl ApiError {
    /// It said that it has no such object.
    const fn is_absent(&self) -> bool {
        matches!(self, Self::Refused(404, _))
    }

    /// What was asked for is refused, and something else may not be: nothing is wrong with who asks, how often, or the server.
    pub(super) const fn is_of_one(&self) -> bool {
        matches!(self, Self::Refused(400..=499, _)) && !matches!(self, Self::Refused(401 | 408 | 429, _))
    }

    /// It said that it has one by that name already.
    const fn is_there(&self) -> bool {
        matches!(self, Self::Refused(409, _))
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status.code, told(&status.message)),
            error => Self::Failed(told(&whole(&error))),
        }
    }
}

/// An error with what it comes from.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// As much of it as belongs in a log.
fn told(text: &str) -> Untrusted {
    let end = (0..=text.len().min(512)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Untrusted::new(&text.as_bytes()[..end])
}

/// A pod, as the API names it.
pub(super) struct Pod<'a> {
    pub(super) namespace: &'a Untrusted,
    pub(super) name: &'a Untrusted,
    pub(super) container: Option<&'a Untrusted>,
}

impl<'a> Pod<'a> {
    /// `None` where its runtime did not say both of its names.
    pub(super) fn of(names: &'a Names) -> Option<Self> {
        let Names { namespace: Some(namespace), pod: Some(name), container, .. } = names else { return None };
        Some(Self { namespace, name, container: container.as_ref() })
    }
}

/// A connection to the API server. It reads rotated credentials anew by itself.
pub(super) struct Cluster {
    client: Client,
    node: String,
}

impl Cluster {
    /// Reads who to tell, and as whom; `node` is this node's name.
    pub(super) async fn open(kubeconfig: Option<&Path>, node: String) -> Result<Self, ApiError> {
        let unread = |error: &dyn std::error::Error| ApiError::Config(told(&whole(error)));
        let mut config = match kubeconfig {
            None => Config::incluster().map_err(|error| unread(&error))?,
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| unread(&error))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unread(&error))?
            }
        };
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        Ok(Self { client: Client::try_from(config)?, node })
    }

    /// Tells it in the Event of that pod and cause: in a new one where there is none, or none any more.
    pub(super) async fn tell(&self, place: &Place, group: &Group, pod: &Pod<'_>) -> Result<(), ApiError> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), pod.namespace.as_str());
        let event = event(place, group, pod, &self.node);
        let name = event.metadata.name.clone().unwrap_or_default();
        let patch = json!({
            "count": event.count,
            "lastTimestamp": event.last_timestamp,
            "message": event.message,
            "involvedObject": { "fieldPath": event.involved_object.field_path },
        });
        let patch = Patch::Strategic(&patch);
        let params = PatchParams::default();
        match within(events.patch(&name, &params, &patch)).await {
            Err(error) if error.is_absent() => {}
            done => return done,
        }
        match within(events.create(&PostParams::default(), &event)).await {
            Err(error) if error.is_there() => within(events.patch(&name, &params, &patch)).await,
            done => done,
        }
    }

    /// Sets the node's condition. `since` is when it became so.
    pub(super) async fn tell_node(
        &self,
        pressure: &Pressure,
        most: Option<&str>,
        since: Timestamp,
    ) -> Result<(), ApiError> {
        let status = if pressure.is_high { "True" } else { "False" };
        let (reason, message) = text::condition(pressure, most);
        self.set_condition(status, reason, &message, since).await
    }

    /// Says that nobody knows any more.
    pub(super) async fn leave_node(&self) -> Result<(), ApiError> {
        self.set_condition("Unknown", "NotWatched", "reaper has ended", Timestamp::now()).await
    }

    async fn set_condition(
        &self,
        status: &str,
        reason: &str,
        message: &str,
        since: Timestamp,
    ) -> Result<(), ApiError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let condition = json!({
            "type": CONDITION,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": time(Timestamp::now()),
            "lastTransitionTime": time(since),
        });
        // Strategic: the conditions of others stay.
        let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
        within(nodes.patch_status(&self.node, &PatchParams::default(), &patch)).await
    }
}

/// The object is not looked at, only whether there was one.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<(), ApiError> {
    timeout(PATIENCE, request).await.map_err(|_| ApiError::TimedOut)?.map_err(ApiError::from).map(drop)
}

/// To the second, as the API keeps it.
fn time(at: Timestamp) -> Option<Time> {
    k8s_openapi::jiff::Timestamp::from_second(at.as_second()).ok().map(Time)
}

fn event(place: &Place, group: &Group, pod: &Pod<'_>, node: &str) -> Event {
    let Pod { namespace, name, container } = pod;
    let namespace = namespace.as_str().to_owned();
    Event {
        metadata: ObjectMeta {
            name: Some(name_of(name.as_str(), place)),
            namespace: Some(namespace.clone()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), COMPONENT.to_owned())])),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace),
            name: Some(name.as_str().to_owned()),
            uid: Some(place.pod.as_str().to_owned()),
            field_path: container.map(|container| format!("spec.containers{{{container}}}")),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(REASON.to_owned()),
        message: Some(text::message(place, group)),
        count: Some(i32::try_from(group.reported).unwrap_or(i32::MAX)),
        first_timestamp: time(group.first),
        last_timestamp: time(group.last),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

/// The Event's name: the same for one pod and cause, also for the daemon's next life. Pods that have a name one after the other
/// differ in the UID.
fn name_of(pod: &str, place: &Place) -> String {
    let uid: String = place.pod.as_str().chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let tail = format!(".{}.{}", place.cause.as_str(), uid.to_ascii_lowercase());
    // A name's parts end with a letter or a digit.
    let room = pod.get(..LONGEST_NAME - tail.len()).unwrap_or(pod);
    format!("{}{tail}", room.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zombie::Cause;

    #[test]
    fn an_events_name_fits_whatever_the_pods_is() {
        let place =
            Place { pod: "5f1c3d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f".into(), cause: Cause::NotificationCoalesced };
        assert_eq!(name_of("fetcher-7c9d", &place), "fetcher-7c9d.notification-coalesced.5f1c3d2e");
        let room = LONGEST_NAME - ".notification-coalesced.5f1c3d2e".len();
        for long in
            ["a".repeat(253), format!("{}-b", "a".repeat(room - 1)), format!("{}.b", "a".repeat(room - 1))]
        {
            let name = name_of(&long, &place);
            assert!(name.len() <= LONGEST_NAME && name.contains("a.notification"), "{name}");
        }
    }
}
