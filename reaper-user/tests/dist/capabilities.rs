//! The capabilities: the unit's, which `cargo xtask vm --systemd` takes away one by one, are those of the manifests.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use crate::{deploy, manifests::Manifests, read};

/// The names that a unit sets in `CapabilityBoundingSet=`, without `CAP_`. The ambient ones have to be the same.
fn of_unit(file: &Path) -> BTreeSet<String> {
    let text = read(file);
    let set = |key: &str| -> BTreeSet<String> {
        let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values
            .flat_map(str::split_whitespace)
            .map(|name| name.trim_start_matches("CAP_").to_owned())
            .collect()
    };
    assert_eq!(set("CapabilityBoundingSet"), set("AmbientCapabilities"), "{}", file.display());
    set("CapabilityBoundingSet")
}

/// What a manifest's container is given.
pub(crate) fn of_container(container: &Value) -> BTreeSet<String> {
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
    let added = capabilities["add"].as_array().expect("a list");
    added.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

#[test]
fn the_manifests_have_the_capabilities_of_the_unit_and_no_other() {
    let reporting = of_unit(&deploy("systemd/reaper.service"));
    let remedies = of_unit(&deploy("systemd/remedies.conf"));
    assert_eq!(reporting.len(), 4);
    assert_eq!(of_container(Manifests::build("report-only").container()), reporting);
    let all: BTreeSet<String> = reporting.union(&remedies).cloned().collect();
    assert_eq!(of_container(Manifests::build("reap-adopted").container()), all);
    // And each is explained.
    let explained = read(&deploy("README.md"));
    for name in all {
        assert!(explained.contains(&format!("`CAP_{name}`")), "deploy/README.md does not explain CAP_{name}");
    }
}
