//! The list of what is in the binary, as CycloneDX 1.5: the crates that cargo links in for the target, not those that build or test it.
//! <https://cyclonedx.org/docs/1.5/json/>
//!
//! By cargo tree: cargo metadata resolves the whole workspace at once, and calls linked what only tests draw in.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{command, workspace::Workspace};

const PACKAGE: &str = "reaper-user";

/// The BPF object is in the binary, too.
const OBJECT: [&str; 3] = ["--package=reaper-ebpf", "--features=bpf", "--target=bpfel-unknown-none"];

/// A package's name with its version, licence and address, separated by what none of them contains.
const FORMAT: &str = "{p}\t{l}\t{r}\t";

/// As JSON text. The same tree gives the same text.
pub(super) fn of(workspace: &Workspace, target: &str) -> Result<String> {
    let mut tree = String::new();
    for of in [["--package", PACKAGE, "--target", target].as_slice(), &OBJECT] {
        let mut cargo = workspace.cargo();
        cargo.args(["tree", "--locked", "--edges=normal,no-proc-macro", "--prefix=depth"]).args(of);
        cargo.args(["--charset=ascii", "--format", FORMAT]);
        tree += &command::output(&mut cargo)?;
        tree.push('\n');
    }
    let mut text = serde_json::to_string_pretty(&document(&tree, target)?)?;
    text.push('\n');
    Ok(text)
}

#[derive(Default)]
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    licence: &'a str,
    address: &'a str,
    /// References of what it is linked with.
    on: BTreeSet<String>,
}

fn document(tree: &str, target: &str) -> Result<Value> {
    let mut packages: BTreeMap<String, Package<'_>> = BTreeMap::new();
    // What the next line may be below of.
    let mut path: Vec<String> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (depth, package) = parse(line).with_context(|| format!("cargo tree says {line:?}"))?;
        let reference = package.reference();
        path.truncate(depth);
        if let Some(above) = path.last().and_then(|above| packages.get_mut(above)) {
            above.on.insert(reference.clone());
        }
        path.push(reference.clone());
        packages.entry(reference).or_insert(package);
    }
    let (top, _) = packages
        .iter()
        .find(|(_, package)| package.name == PACKAGE)
        .with_context(|| format!("{PACKAGE} is not in what cargo tree says"))?;
    let mut program = packages.get(top).map(|package| package.component("application")).unwrap_or_default();
    program["name"] = json!("reaper");
    program["properties"] = json!([{ "name": "cdx:rustc:target", "value": target }]);
    let others = packages.iter().filter(|(reference, _)| *reference != top);
    let components: Vec<Value> = others.map(|(_, package)| package.component("library")).collect();
    let dependencies = packages.iter().map(|(of, package)| json!({ "ref": of, "dependsOn": package.on }));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": program },
        "components": components,
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

/// `2name v1.2.3 (…)`, the licence and the address. What is below a package is only written the first time.
fn parse(line: &str) -> Option<(usize, Package<'_>)> {
    let mut fields = line.split('\t');
    let package = fields.next()?;
    let digits = package.find(|c: char| !c.is_ascii_digit())?;
    let (depth, package) = package.split_at(digits);
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let (licence, address) = (fields.next()?, fields.next()?);
    Some((depth.parse().ok()?, Package { name, version, licence, address, on: BTreeSet::new() }))
}

impl Package<'_> {
    /// Its URL. <https://github.com/package-url/purl-spec>
    fn reference(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version.replace('+', "%2B"))
    }

    fn component(&self, kind: &str) -> Value {
        let Self { name, version, licence, address, on: _ } = self;
        let mut component = json!({
            "type": kind,
            "bom-ref": self.reference(),
            "name": name,
            "version": version,
            "purl": self.reference(),
        });
        if !licence.is_empty() {
            // Some still write a slash for OR, which SPDX has not.
            let expression = licence.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
            component["licenses"] = json!([{ "expression": expression }]);
        }
        if !address.is_empty() {
            component["externalReferences"] = json!([{ "type": "vcs", "url": address }]);
        }
        component
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0reaper-user v0.1.0 (/a tree/reaper-user)\tMIT\t\t\n\
        1one v1.0.0+x\tMIT/Apache-2.0\thttps://example.org/one\t\n\
        2below v2.0.0\tMIT\t\t\n\
        1two v0.3.0\t\t\t\n\
        2below v2.0.0\tMIT\t\t (*)\n";

    #[test]
    fn every_package_is_listed_once_with_all_that_it_is_linked_with() {
        let document = document(TREE, "x").unwrap();
        let names: Vec<&Value> =
            document["components"].as_array().unwrap().iter().map(|component| &component["name"]).collect();
        assert_eq!(names, ["below", "one", "two"]);
        assert_eq!(document["metadata"]["component"]["name"], "reaper");
        let on = |of: &str| {
            let all = document["dependencies"].as_array().unwrap();
            all.iter().find(|entry| entry["ref"] == of).unwrap()["dependsOn"].clone()
        };
        assert_eq!(
            on("pkg:cargo/reaper-user@0.1.0"),
            json!(["pkg:cargo/one@1.0.0%2Bx", "pkg:cargo/two@0.3.0"])
        );
        assert_eq!(on("pkg:cargo/two@0.3.0"), json!(["pkg:cargo/below@2.0.0"]));
    }

    #[test]
    fn licences_are_expressions_as_spdx_has_them() {
        let document = document(TREE, "x").unwrap();
        assert_eq!(document["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(document["components"][2]["licenses"], Value::Null);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(document("1a b c\n", "x").is_err());
    }
}
