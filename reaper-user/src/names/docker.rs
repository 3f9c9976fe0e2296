//! Docker, and Podman, which serves Docker's interface beside its own.
//! <https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerInspect>

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use hyper::StatusCode;
use serde::Deserialize;

use super::{
    Answer, Engine, Key, Names, Unanswered, socket,
    text::{long, name, set_labels},
};

/// One that serves it.
pub(super) struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// Listens there.
    pub(super) const fn at(socket: PathBuf) -> Self {
        Self { socket }
    }
}

impl Engine for Docker {
    async fn look_up(&self, key: &Key) -> Result<Option<Answer>, Unanswered> {
        let Key::Container(id) = key else { return Ok(None) };
        // Without a version in front, both take the latest that they know.
        match socket::get(&self.socket, &format!("/containers/{id}/json")).await? {
            (StatusCode::OK, text) => {
                let container: Container = serde_json::from_slice(&text).map_err(Unanswered::wrong)?;
                if container.id != *id {
                    return Err(Unanswered::wrong("the answer is about another container"));
                }
                Ok(Some(container.names().into()))
            }
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, _) => Err(Unanswered::wrong(format_args!("status {status}"))),
        }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    name: String,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    labels: Option<BTreeMap<String, String>>,
}

impl Container {
    fn names(self) -> Names {
        let Self { id: _, name: own, config: Config { image, labels } } = self;
        let labels = labels.unwrap_or_default();
        // Where Kubernetes runs its containers by Docker, it says so by these.
        let of = |key: &str| labels.get(key).and_then(|text| name(text));
        let mut names = Names {
            namespace: of("io.kubernetes.pod.namespace"),
            pod: of("io.kubernetes.pod.name"),
            container: of("io.kubernetes.container.name").or_else(|| name(own.trim_start_matches('/'))),
            image: long(&image),
            ..Names::default()
        };
        set_labels(&mut names, labels.iter(), std::iter::empty());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_kubernetes_shows_its_pod_and_another_one_its_own_name() {
        let of = |text: &str| serde_json::from_str::<Container>(text).unwrap().names();
        let plain = of(r#"{"Id":"ab","Name":"/web","Config":{"Image":"nginx:1","Labels":null},"More":[1]}"#);
        assert_eq!(
            (plain.container, plain.image, plain.pod),
            (Some("web".into()), Some("nginx:1".into()), None)
        );
        let pod =
            of(r#"{"Id":"ab","Name":"/k8s_web_shop-1","Config":{"Labels":{"io.kubernetes.pod.name":"shop-1",
            "io.kubernetes.pod.namespace":"shops","io.kubernetes.container.name":"web\u001b[2J"}}}"#);
        assert_eq!((pod.namespace, pod.pod), (Some("shops".into()), Some("shop-1".into())));
        assert_eq!((pod.container.unwrap().as_str(), pod.image), (r"web\x1b[2J", None));
        assert_eq!(pod.labels.len(), 3);
    }
}
