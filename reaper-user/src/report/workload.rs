//! Whose a zombie is, as it is shown: what its cgroup tells, and what its runtime calls it.

use serde::{Deserialize, Serialize};

use crate::{
    names::{Named, Names},
    text::Untrusted,
    workload::{Kind, Runtime, Workload},
};

/// Digits of a container's id that are shown, as its runtime does.
const ID_DIGITS: usize = 12;

/// What an operator would name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownWorkload {
    /// What kind of thing it is.
    pub kind: Kind,
    /// The container's id, the machine's or the unit's name.
    pub id: Option<Untrusted>,
    /// What made it.
    pub runtime: Option<Runtime>,
    /// The pod's UID.
    pub pod_uid: Option<Untrusted>,
    /// The innermost systemd unit around it.
    pub unit: Option<Untrusted>,
    /// The cgroup's path from the root of its hierarchy.
    pub cgroup: Option<Untrusted>,
    /// The Kubernetes namespace. This and all below: as its runtime calls it; `None` where that has not answered, or does not say.
    pub namespace: Option<Untrusted>,
    /// The pod's name.
    pub pod: Option<Untrusted>,
    /// The container's name.
    pub container: Option<Untrusted>,
    /// The image that the container was made from.
    pub image: Option<Untrusted>,
    /// What a systemd unit says of itself.
    pub description: Option<Untrusted>,
}

/// Whether a cgroup is this one or below it. The root is above nobody here: what is in none but that is the machine's own.
#[must_use]
pub fn is_within(own: &Untrusted, cgroup: &Untrusted) -> bool {
    let below = own.as_str().strip_prefix(cgroup.as_str());
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl ShownWorkload {
    /// A workload, with its names where they are known.
    #[must_use]
    pub fn new(workload: &Workload, named: &Named) -> Self {
        let Workload { kind, id, runtime, pod_uid, unit, cgroup } = workload;
        let Names { namespace, pod, container, image, description, labels: _, labels_lost: _, opts_out: _ } =
            named.names().cloned().unwrap_or_default();
        Self {
            kind: *kind,
            id: id.clone(),
            runtime: *runtime,
            pod_uid: pod_uid.clone(),
            unit: unit.clone(),
            cgroup: cgroup.clone(),
            namespace,
            pod,
            container,
            image,
            description,
        }
    }

    /// Whether it is meant by this name: a container's id or its beginning, a pod's UID, a unit's name, a cgroup's path, a pod's name
    /// behind its namespace and a slash, or the name of a container that is in no pod.
    #[must_use]
    pub fn is_named(&self, name: &Untrusted) -> bool {
        let Self { kind, id, pod_uid, unit, cgroup, namespace, pod, container, .. } = self;
        let is = |text: &Option<Untrusted>| text.as_ref() == Some(name);
        let contains = matches!(kind, Kind::Pod | Kind::Container | Kind::Machine);
        let begins = |id: &Untrusted| !name.as_str().is_empty() && id.as_str().starts_with(name.as_str());
        let by_pod = match (namespace, pod) {
            (Some(namespace), Some(pod)) => {
                name.as_str().split_once('/') == Some((namespace.as_str(), pod.as_str()))
            }
            _ => is(container),
        };
        is(id)
            || is(pod_uid)
            || is(unit)
            || is(cgroup)
            || by_pod
            || contains && id.as_ref().is_some_and(begins)
    }

    /// The same, or what lists show it as: what is read there can be asked for.
    #[must_use]
    pub fn is_meant_by(&self, name: &Untrusted) -> bool {
        self.is_named(name) || self.shown() == name.as_str()
    }

    /// What a person would call it: by its names where they are known, else by what its cgroup tells.
    #[must_use]
    pub fn shown(&self) -> String {
        self.shown_within(usize::MAX)
    }

    /// The same with as much before it as there are places for: namespace and container are left out first.
    pub(crate) fn shown_within(&self, width: usize) -> String {
        use unicode_width::UnicodeWidthStr as _;
        let Self { namespace, pod, container, .. } = self;
        let Some(pod) = pod else {
            return container.as_ref().map_or_else(|| self.by_cgroup(), ToString::to_string);
        };
        let whole =
            namespace.as_ref().map_or_else(|| pod.to_string(), |namespace| format!("{namespace}/{pod}"));
        let with = container.as_ref().map(|container| format!("{whole} (container {container})"));
        let short = container.as_ref().map(|container| format!("{pod} ({container})"));
        let fits = |text: &String| text.width() <= width;
        [with, Some(whole), short].into_iter().flatten().find(fits).unwrap_or_else(|| pod.to_string())
    }

    fn by_cgroup(&self) -> String {
        let named = |name: &Option<Untrusted>| name.as_ref().map(|name| name.as_str().to_owned());
        let name = match self.kind {
            Kind::Pod | Kind::Container => {
                named(&self.id).map(|id| short(&id)).or_else(|| named(&self.pod_uid))
            }
            Kind::Machine | Kind::Unit | Kind::Session => named(&self.id).or_else(|| named(&self.unit)),
            Kind::Host => None,
        };
        name.unwrap_or_else(|| self.kind.as_str().to_owned())
    }

    /// All of it, in a sentence.
    pub(crate) fn whole(&self) -> String {
        let Self {
            kind,
            id,
            runtime: _,
            pod_uid,
            unit,
            cgroup,
            image,
            description,
            pod,
            container,
            namespace: _,
        } = self;
        let mut parts = Vec::new();
        if pod.is_some() || container.is_some() {
            parts.push(self.shown());
        }
        parts.extend(image.as_ref().map(|image| format!("image {image}")));
        parts.push(match (kind, id) {
            (Kind::Host, _) | (_, None) => kind.as_str().to_owned(),
            (kind, Some(id)) => format!("{} {id}", kind.as_str()),
        });
        parts.extend(description.clone().map(|description| description.to_string()));
        parts.extend(pod_uid.as_ref().map(|uid| format!("of pod {uid}")));
        parts.extend(unit.as_ref().filter(|_| *kind != Kind::Unit).map(|unit| format!("in {unit}")));
        parts.extend(cgroup.as_ref().map(|cgroup| format!("cgroup {cgroup}")));
        parts.join(", ")
    }
}

/// A hash by its first digits; a name that somebody chose (LXC, runc used directly) in full.
fn short(id: &str) -> String {
    if id.len() > ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        id.chars().take(ID_DIGITS).collect()
    } else {
        id.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn of(names: Names) -> ShownWorkload {
        ShownWorkload::new(&fixture::never_waited().workload, &Named::As(names.into()))
    }

    #[test]
    fn a_workload_is_called_by_its_names_and_by_its_id_until_they_are_known() {
        let named = of(fixture::names());
        assert_eq!(named.shown(), "crawlers/fetcher-7c9d (container fetcher)");
        let sandbox = of(Names { container: None, image: None, ..fixture::names() });
        assert_eq!(sandbox.shown(), "crawlers/fetcher-7c9d");
        let plain = of(Names { pod: None, namespace: None, ..fixture::names() });
        assert_eq!(plain.shown(), "fetcher");
        for named in [Named::Nobody, Named::Pending, Named::As(Names::default().into())] {
            assert_eq!(ShownWorkload::new(&fixture::never_waited().workload, &named).shown(), "3f2a9c0d1e4b");
        }
    }

    #[test]
    fn in_little_room_the_pod_stays() {
        let named = of(fixture::names());
        for (width, shown) in [
            (41, "crawlers/fetcher-7c9d (container fetcher)"),
            (40, "crawlers/fetcher-7c9d"),
            (20, "fetcher-7c9d"),
            (3, "fetcher-7c9d"),
        ] {
            assert_eq!(named.shown_within(width), shown);
        }
    }

    #[test]
    fn what_is_shown_can_be_asked_for() {
        let named = of(fixture::names());
        for name in ["crawlers/fetcher-7c9d", "3f2a9c0d", "5f1c3d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f"] {
            assert!(named.is_named(&name.into()), "{name}");
        }
        for name in ["fetcher-7c9d", "crawlers", "other/fetcher-7c9d", "fetcher", ""] {
            assert!(!named.is_named(&name.into()), "{name}");
        }
        assert!(of(Names { pod: None, namespace: None, ..fixture::names() }).is_named(&"fetcher".into()));
        assert!(named.is_meant_by(&"crawlers/fetcher-7c9d (container fetcher)".into()));
        assert!(named.is_meant_by(&"3f2a9c0d".into()) && !named.is_meant_by(&"fetcher".into()));
    }
}
