//! The table `[names]`: whom to ask what people call a workload.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::Deserialize;

use super::value::{PinPath, ValueError};
use crate::names::Settings;

/// Where the runtimes listen that know what people call a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Names {
    /// Of the Container Runtime Interface: containerd, CRI-O.
    pub cri: Socket,
    /// Of Docker.
    pub docker: Socket,
    /// Of Podman.
    pub podman: Socket,
    /// Of the system's D-Bus, where systemd is.
    pub systemd: Socket,
}

/// Where a runtime listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Socket {
    /// Where it does unless somebody has told it otherwise.
    #[default]
    Auto,
    /// Nowhere: it is not asked.
    Off,
    /// Here.
    At(PathBuf),
}

impl Socket {
    fn or(&self, usual: Vec<PathBuf>) -> Vec<PathBuf> {
        match self {
            Self::Auto => usual,
            Self::Off => Vec::new(),
            Self::At(path) => vec![path.clone()],
        }
    }
}

impl Names {
    /// Whom that means.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let Self { cri, docker, podman, systemd } = self;
        let usual = Settings::default();
        Settings {
            cri: cri.or(usual.cri),
            docker: docker.or(usual.docker),
            podman: podman.or(usual.podman),
            systemd: systemd.or(usual.systemd),
        }
    }
}

impl FromStr for Socket {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path => match path.parse::<PinPath>() {
                Ok(path) => Ok(Self::At(path.get().to_owned())),
                Err(_) => Err(ValueError::Socket(text.into())),
            },
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::At(path) => path.display().fmt(f),
        }
    }
}
