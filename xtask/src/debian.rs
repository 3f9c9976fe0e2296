//! Debian packages that are fetched and unpacked without being installed.
//!
//! Nothing outside the directories given changes. What is fetched is checked by apt, with this system's checksums and keys.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Where Debian's `debian-archive-keyring` puts the keys its suites are signed with.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What Debian itself calls the archive for everybody.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// apt with options of its own. What the system's configuration says about proxies holds here too.
pub(crate) struct Apt {
    options: Vec<(&'static str, OsString)>,
}

impl Apt {
    /// With this system's sources, lists and installed packages.
    pub(crate) fn of_this_system() -> Self {
        // As root apt reads and writes as its own user, who may not look into this tree.
        Self { options: vec![("APT::Sandbox::User", "root".into())] }
    }

    /// With one suite of the Debian archive, and lists and state of its own in `directory`.
    ///
    /// `mirror`: the archive's address, where it is not to be that of this system's own sources.
    pub(crate) fn of_suite(
        directory: &Path,
        architecture: &str,
        mirror: Option<&str>,
        suite: &str,
    ) -> Result<Self> {
        let mirror = match mirror {
            Some(mirror) => mirror.to_owned(),
            None => system_mirror()?,
        };
        Self::of_source(directory, architecture, &format!("{mirror} {suite} main"))
    }

    /// The same with a source of Debian's, as `address suite component`, for an architecture that need not be this one.
    pub(crate) fn of_source(directory: &Path, architecture: &str, source: &str) -> Result<Self> {
        for sub in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(sub))?;
        }
        // `target=Packages`: no translations, no contents, no AppStream data.
        let source = format!("deb [arch={architecture} signed-by={KEYRING} target=Packages] {source}\n");
        let sources = directory.join("sources.list");
        fs::write(&sources, source)?;
        let mut apt = Self::of_this_system();
        apt.options.extend([
            ("Dir::Etc::sourcelist", sources.into()),
            ("Dir::Etc::sourceparts", "-".into()),
            ("Dir::State", directory.join("state").into()),
            ("Dir::State::status", "/dev/null".into()),
            ("Dir::Cache", directory.join("cache").into()),
            ("APT::Architecture", architecture.into()),
            ("APT::Architectures", architecture.into()),
            // An old suite's Release file may have expired; what it lists is checked by signature and sums.
            ("Acquire::Check-Valid-Until", "false".into()),
        ]);
        Ok(apt)
    }

    /// Fetches the lists of packages.
    pub(crate) fn update(&self) -> Result<()> {
        command::output(self.command("apt-get").args(["--quiet", "update"])).map(drop)
    }

    /// The names of what a package depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let shown = command::output(self.command("apt-cache").args(["--no-all-versions", "show", package]))?;
        Ok(depends_of(&shown))
    }

    /// What would happen if a package were installed, without those it recommends.
    pub(crate) fn plan(&self, package: &str) -> Result<Plan> {
        let mut apt = self.command("apt-get");
        apt.args(["install", "--simulate", "--no-install-recommends", package]).env("LC_ALL", "C");
        Ok(Plan::of(&command::output(&mut apt)?))
    }

    /// Fetches packages, `name` or `name=version`, into a directory in which no others are. They are returned.
    pub(crate) fn download(&self, packages: &[impl AsRef<str>], to: &Path) -> Result<Vec<PathBuf>> {
        let mut apt = self.command("apt-get");
        // They go to the working directory.
        apt.args(["--quiet", "download"]).args(packages.iter().map(AsRef::as_ref)).current_dir(to);
        command::output(&mut apt)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(to)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                found.push(path);
            }
        }
        if found.len() != packages.len() {
            bail!(
                "{}: apt-get download left {} packages there, not {}",
                to.display(),
                found.len(),
                packages.len()
            );
        }
        Ok(found)
    }

    /// Fetches packages with all that they depend on, as if nothing were installed, and unpacks them to where they replace what
    /// was there. Nothing is ever there by half. `scratch` is a directory in the same file system, emptied before and removed
    /// after.
    pub(crate) fn unpack_whole(&self, packages: &[&str], scratch: &Path, to: &Path) -> Result<()> {
        // One that was interrupted has left its own.
        emptied(scratch)?;
        let mut wanted = BTreeSet::new();
        for package in packages {
            wanted.extend(self.plan(package)?.installs);
        }
        let found = self.download(&wanted.into_iter().collect::<Vec<_>>(), scratch)?;
        let unpacked = scratch.join("unpacked");
        fs::create_dir(&unpacked)?;
        for package in found {
            unpack(&package, &unpacked)?;
        }
        remove(to)?;
        fs::rename(&unpacked, to).with_context(|| to.display().to_string())?;
        remove(scratch)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (key, value) in &self.options {
            let mut option = OsString::from(key);
            option.push("=");
            option.push(value);
            command.arg("-o").arg(option);
        }
        command.stdin(Stdio::null());
        command
    }
}

/// What an installation would do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// `name=version` of all that would be installed or brought to another version.
    pub(crate) installs: Vec<String>,
    /// `name version` of all that would be removed.
    pub(crate) removes: Vec<String>,
}

impl Plan {
    /// Reads what `apt-get --simulate` says: `Inst NAME [OLD] (NEW ARCHIVE [ARCHITECTURE])` and `Remv NAME [OLD]`, where
    /// OLD is the version that is there. The names of other architectures' packages end with theirs, as in `libc6:i386`.
    fn of(simulated: &str) -> Self {
        let installs = simulated.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.split_once('(')?.1.split_whitespace().next()?;
            Some(format!("{name}={version}"))
        });
        let removes = simulated.lines().filter_map(|line| {
            let mut words = line.strip_prefix("Remv ")?.split_whitespace();
            let (name, version) = (words.next()?, words.next().unwrap_or_default());
            Some(format!("{name} {}", version.trim_matches(['[', ']'])))
        });
        Self { installs: installs.collect(), removes: removes.collect() }
    }
}

/// Unpacks a package's files, and runs nothing of it.
pub(crate) fn unpack(package: &Path, to: &Path) -> Result<()> {
    command::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(to))
}

/// An empty directory, whatever was there.
pub(crate) fn emptied(directory: &Path) -> Result<()> {
    remove(directory)?;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| directory.display().to_string())
        }
        _ => Ok(()),
    }
}

/// The names in the first `Depends:` field.
fn depends_of(shown: &str) -> Vec<String> {
    let field = shown.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let names = field.split(',').filter_map(|item| item.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// The Debian archive that this system's own apt uses, which may be nearer or the only one in reach.
fn system_mirror() -> Result<String> {
    let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let targets = command::output(&mut command).context("apt's sources could not be read")?;
    if let Some(mirror) = debian_archive(&targets) {
        return Ok(mirror.to_owned());
    }
    println!(
        "apt's sources name no Debian archive: it is {DEFAULT_MIRROR} (`cargo xtask vm --mirror` names another)"
    );
    Ok(DEFAULT_MIRROR.to_owned())
}

/// The lines have an origin and a label where `apt-get update` has fetched them. An installer's disc has one suite only.
fn debian_archive(targets: &str) -> Option<&str> {
    let uris = targets.lines().filter_map(|line| line.strip_prefix("Debian|Debian|"));
    uris.map(|uri| uri.trim_end_matches('/')).find(|uri| !uri.starts_with("cdrom:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_alternatives_are_left_out_of_depends() {
        let shown = "Package: a\nDepends: linux-base-a (= 7.2-1), linux-image-a (= 7.2-1), x | y\nSize: 1\n";
        assert_eq!(depends_of(shown), ["linux-base-a", "linux-image-a", "x"]);
        assert!(depends_of("Package: a\n").is_empty());
    }

    #[test]
    fn security_and_foreign_archives_are_not_taken_for_the_mirror() {
        let targets =
            "Other|Debian|http://o/\nDebian|Debian-Security|http://s/\nDebian|Debian|http://m/debian/\n";
        assert_eq!(debian_archive(targets), Some("http://m/debian"));
        assert_eq!(debian_archive("Ubuntu|Ubuntu|http://u/\nDebian|Debian|cdrom://[Debian 12]/\n"), None);
    }

    #[test]
    fn a_plan_names_what_comes_in_which_version_and_what_would_go() {
        let simulated = "Reading package lists...\nThe following packages will be REMOVED:\n  qemu-utils\n\
            Remv qemu-utils [1:10.0.2+ds-2~bpo12+1]\nRemv old [2] [held:amd64 ]\n\
            Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])\n\
            Inst libfdt1 [1.6.1-3] (1.6.1-4+b1 Debian:12.15/oldstable, Security:12 [amd64]) []\n\
            Inst libc6:i386 (2.36-9 Debian:12.15/oldstable [i386])\n\
            Conf seabios (1.16.2-1 Debian:12.15/oldstable [all])\n";
        let Plan { installs, removes } = Plan::of(simulated);
        assert_eq!(installs, ["seabios=1.16.2-1", "libfdt1=1.6.1-4+b1", "libc6:i386=2.36-9"]);
        assert_eq!(removes, ["qemu-utils 1:10.0.2+ds-2~bpo12+1", "old 2"]);
    }

    #[test]
    fn what_is_there_already_needs_no_plan() {
        let Plan { installs, removes } =
            Plan::of("make is already the newest version (4.3-4.1).\n0 upgraded, 0 newly installed\n");
        assert!(installs.is_empty() && removes.is_empty());
    }
}
