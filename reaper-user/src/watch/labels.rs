//! By what is counted. A container chooses most of it: it is escaped, and cut where it is long.

use std::borrow::Cow;

use crate::{
    text::Untrusted,
    workload::{Kind, Workload},
    zombie::{Cause, Zombie},
};

/// Bytes of a value.
const VALUE: usize = 200;

/// Whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// The kind of the workload.
    pub kind: Kind,
    /// Its id or name; empty for the host itself.
    pub workload: Untrusted,
    /// The UID of its pod; empty outside of one.
    pub pod_uid: Untrusted,
}

/// Whose it is, and why it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ZombieLabels {
    /// Whose.
    pub of: WorkloadLabels,
    /// Why.
    pub cause: Cause,
}

impl From<&Workload> for WorkloadLabels {
    fn from(workload: &Workload) -> Self {
        let value = |text: &Option<Untrusted>| text.as_ref().map(cut).unwrap_or_default();
        Self { kind: workload.kind, workload: value(&workload.id), pod_uid: value(&workload.pod_uid) }
    }
}

impl From<&Zombie> for ZombieLabels {
    fn from(zombie: &Zombie) -> Self {
        Self { of: WorkloadLabels::from(&zombie.workload), cause: zombie.cause }
    }
}

impl WorkloadLabels {
    /// Names and values.
    #[must_use]
    pub fn pairs(&self) -> [(&'static str, Cow<'_, str>); 3] {
        let Self { kind, workload, pod_uid } = self;
        [
            ("kind", kind.as_str().into()),
            ("workload", workload.as_str().into()),
            ("pod_uid", pod_uid.as_str().into()),
        ]
    }

    /// As many, for all that found no place.
    #[must_use]
    pub const fn others() -> [(&'static str, Cow<'static, str>); 3] {
        [("kind", Cow::Borrowed(OTHER)), ("workload", Cow::Borrowed(OTHER)), ("pod_uid", Cow::Borrowed(""))]
    }
}

/// The value for what found no place. No kind is called like that.
pub const OTHER: &str = "other";

fn cut(text: &Untrusted) -> Untrusted {
    if text.as_str().len() <= VALUE {
        return text.clone();
    }
    let end = text.as_str().floor_char_boundary(VALUE - '…'.len_utf8());
    Untrusted::from_escaped(&format!("{}…", &text.as_str()[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn a_name_that_a_container_chose_is_escaped_and_bounded() {
        let mut zombie = fixture::never_waited();
        zombie.workload.id = Some(Untrusted::new(&[b'\x1b'; 1_000]));
        let labels = ZombieLabels::from(&zombie);
        let value = labels.of.workload.as_str();
        assert!(value.len() <= VALUE && value.starts_with(r"\x1b\x1b") && value.ends_with('…'), "{value}");
        assert!(!value.chars().any(char::is_control));
    }
}
