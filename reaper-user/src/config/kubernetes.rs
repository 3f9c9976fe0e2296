//! The table `[kubernetes]`: what the cluster is told.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::Deserialize;

use super::{
    span::Span,
    value::{PinPath, ValueError, count},
};
use crate::{kubernetes::Settings, text::Untrusted};

/// What the cluster is told. Nothing, unless something is switched on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// Whether there is a Warning Event on each pod whose zombies stand.
    pub events: bool,
    /// From how many zombies on the node has a condition that says so.
    pub node_zombies: NodeZombies,
    /// What the node is called.
    pub node: NodeName,
    /// How far apart two tellings of one Event are.
    pub apart: Apart,
    /// Where the cluster's address and the credentials for it are.
    pub kubeconfig: KubeconfigPath,
}

/// From how many zombies on the node has a condition that says so: 1 to 4,194,304, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeZombies(Option<u32>);

/// What the node is called in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeName {
    /// What `NODE_NAME` in the environment says, else the host's name.
    #[default]
    Auto,
    /// This.
    Is(String),
}

/// How far apart two tellings of one Event are: 1 second to 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart(Duration);

/// Where the cluster's address and the credentials for it are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KubeconfigPath {
    /// What Kubernetes puts into every pod: the service account's token.
    #[default]
    InCluster,
    /// In this file.
    At(PathBuf),
}

impl Kubernetes {
    /// What that means; `None` where nothing is to be told.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        let Self { events, node_zombies, node, apart, kubeconfig } = self;
        (*events || node_zombies.0.is_some()).then(|| Settings {
            events: *events,
            node_zombies: node_zombies.0.map(u64::from),
            node: node.resolve(),
            apart: apart.0,
            kubeconfig: match kubeconfig {
                KubeconfigPath::InCluster => None,
                KubeconfigPath::At(path) => Some(path.clone()),
            },
        })
    }
}

impl NodeName {
    fn resolve(&self) -> String {
        match self {
            Self::Is(name) => name.clone(),
            Self::Auto => std::env::var("NODE_NAME").ok().filter(|name| is_name(name)).unwrap_or_else(|| {
                // As a kubelet takes it.
                rustix::system::uname().nodename().to_string_lossy().to_lowercase()
            }),
        }
    }
}

/// A name as the API has it.
fn is_name(text: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= 253
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.'))
}

impl FromStr for NodeZombies {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "off" => Ok(Self(None)),
            _ => count(text, 1, 4_194_304).map(|count| Self(Some(count))),
        }
    }
}

impl fmt::Display for NodeZombies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(count) => count.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for NodeName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "auto" => Ok(Self::Auto),
            name if is_name(name) => Ok(Self::Is(name.to_owned())),
            other => Err(ValueError::Node(other.into())),
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Is(name) => f.write_str(name),
        }
    }
}

impl Apart {
    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);
}

impl Default for Apart {
    fn default() -> Self {
        Self(Duration::from_secs(300))
    }
}

impl FromStr for Apart {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let span: Span = text.parse()?;
        if (Self::MIN..=Self::MAX).contains(&span.0) {
            Ok(Self(span.0))
        } else {
            Err(ValueError::Apart(Untrusted::from(text)))
        }
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(self.0).fmt(f)
    }
}

impl FromStr for KubeconfigPath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "in-cluster" => Ok(Self::InCluster),
            path => match path.parse::<PinPath>() {
                Ok(path) => Ok(Self::At(path.get().to_owned())),
                Err(_) => Err(ValueError::Kubeconfig(text.into())),
            },
        }
    }
}

impl fmt::Display for KubeconfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InCluster => f.write_str("in-cluster"),
            Self::At(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_unless_something_is_switched_on() {
        assert_eq!(Kubernetes::default().settings(), None);
        let settings =
            Kubernetes { node_zombies: "500".parse().unwrap(), ..Kubernetes::default() }.settings();
        assert!(settings.is_some_and(|settings| settings.node_zombies == Some(500) && !settings.events));
    }

    #[test]
    fn a_nodes_name_is_one_that_the_api_has() {
        for name in ["node-1", "10.0.0.1", "a.b-c.d", "auto"] {
            assert_eq!(name.parse::<NodeName>().unwrap().to_string(), name);
        }
        for other in ["", "Node", "-a", "a.", "a/b", "a b"] {
            assert!(other.parse::<NodeName>().is_err(), "{other}");
        }
    }
}
