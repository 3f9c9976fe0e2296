//! The kernels of the matrix: Debian's cloud kernels, fetched as packages, of which only the image is kept.
//!
//! Guarantees: nothing outside the cache directory changes (apt runs with lists, sources and state of its own), nobody else
//! changes that meanwhile, a kernel in the cache is not fetched again, and a fetch that is interrupted leaves no
//! half of one behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{arch::Arch, systemd};
use crate::{
    command,
    debian::{self, Apt},
    workspace::Workspace,
};

/// A kernel of the matrix, and the suite that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// What one types.
    pub(crate) name: &'static str,
    suite: &'static str,
}

/// Oldest first. Where a suite moves on to a newer kernel (only sid does), `--refresh` fetches it.
pub(crate) const LINES: [Line; 4] = [
    Line { name: "5.10", suite: "bullseye" },
    Line { name: "6.1", suite: "bookworm" },
    Line { name: "6.12", suite: "trixie" },
    Line { name: "7", suite: "sid" },
];

impl Line {
    fn image(self, directory: &Path, arch: Arch) -> PathBuf {
        directory.join(format!("kernels{}", arch.suffix())).join(self.name).join("vmlinuz")
    }
}

/// Whether the whole matrix is in the cache.
pub(crate) fn are_all_there(workspace: &Workspace) -> bool {
    LINES.iter().all(|line| line.image(&directory(workspace), Arch::X86).is_file())
        && systemd::is_there(&directory(workspace))
}

/// Where all of this task's own things are.
pub(super) fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target().join("vm")
}

/// An image to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// What it was asked for as.
    pub(crate) name: String,
    pub(crate) image: PathBuf,
}

/// A kernel as one names it: `5.10`, `6.1`, `6.12`, `7` (also `7.x`), or an image's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Line(Line),
    Image(PathBuf),
}

/// Reads a kernel's name from the command line.
pub(crate) fn parse(text: &str) -> Result<Wanted, String> {
    let name = text.strip_suffix(".x").unwrap_or(text);
    if let Some(line) = LINES.into_iter().find(|line| line.name == name) {
        return Ok(Wanted::Line(line));
    }
    if text.contains('/') {
        return Ok(Wanted::Image(text.into()));
    }
    let known: Vec<&str> = LINES.iter().map(|line| line.name).collect();
    Err(format!("known are {}, or the path of a kernel image (with a slash in it)", known.join(", ")))
}

/// The directory that kernels, scratch apt states and logs are kept in, for one task at a time.
pub(crate) struct Cache {
    directory: PathBuf,
    mirror: Option<String>,
    /// Goes with the process, however that ends.
    _lock: fs::File,
}

impl Cache {
    /// `mirror`: a Debian archive's address, where it is not to be that of this system's own apt sources.
    pub(crate) fn open(workspace: &Workspace, mirror: Option<String>) -> Result<Self> {
        let directory = directory(workspace);
        fs::create_dir_all(&directory).with_context(|| format!("could not make {}", directory.display()))?;
        let lock = fs::File::create(directory.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!(
                "other kernels are being fetched or booted in this working tree: wait until that has ended"
            );
        }
        Ok(Self { directory, mirror, _lock: lock })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The image: from the cache, else fetched.
    pub(crate) fn kernel(&self, wanted: &Wanted, arch: Arch, refresh: bool) -> Result<Kernel> {
        let line = match wanted {
            Wanted::Line(line) => *line,
            Wanted::Image(image) if image.is_file() => {
                let name = image.file_name().unwrap_or(image.as_os_str()).to_string_lossy().into_owned();
                return Ok(Kernel { name, image: image.clone() });
            }
            Wanted::Image(image) => bail!("{}: no such kernel image", image.display()),
        };
        let image = line.image(&self.directory, arch);
        if refresh || !image.is_file() {
            self.fetch(line, arch, &image).with_context(|| {
                format!("could not fetch kernel {} from Debian {}", line.name, line.suite)
            })?;
        }
        Ok(Kernel { name: line.name.to_owned(), image })
    }

    /// Where systemd is unpacked: from the cache, else fetched.
    pub(crate) fn systemd(&self, refresh: bool) -> Result<PathBuf> {
        let root = systemd::root(&self.directory);
        if refresh || !systemd::is_there(&self.directory) {
            let state = self.directory.join("apt").join(systemd::SUITE);
            let apt = Apt::of_suite(&state, Arch::X86.debian(), self.mirror.as_deref(), systemd::SUITE)?;
            apt.update()?;
            systemd::fetch(&apt, &self.directory).context("could not fetch systemd")?;
        }
        Ok(root)
    }

    fn fetch(&self, line: Line, arch: Arch, image: &Path) -> Result<()> {
        let state = self.directory.join(format!("apt{}", arch.suffix())).join(line.suite);
        let apt = Apt::of_suite(&state, arch.debian(), self.mirror.as_deref(), line.suite)?;
        println!("vm: reading Debian {}'s package list", line.suite);
        apt.update()?;

        let newest = format!("linux-image-cloud-{}", arch.debian());
        let depends = apt.depends(&newest)?;
        let image_package = depends
            .iter()
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{newest} depends on no linux-image-*"))?;
        // Since 7.x linux-image-* is empty and depends on linux-binary-*, which has the image.
        let inner = apt.depends(image_package)?;
        let package = inner.iter().find(|name| name.starts_with("linux-binary-")).unwrap_or(image_package);

        // One that was interrupted has left its own.
        let scratch = self.directory.join("fetch");
        debian::emptied(&scratch)?;
        println!("vm: downloading {package}");
        let debs = apt.download(&[package], &scratch)?;
        let unpacked = scratch.join("unpacked");
        fs::create_dir(&unpacked)?;
        for deb in debs {
            unpack_image(&deb, &unpacked)?;
        }
        let found = find_image(&unpacked)?.with_context(|| format!("{package}: has no vmlinuz"))?;

        let target = image.parent().context("an image without a directory")?;
        fs::create_dir_all(target)?;
        fs::write(target.join("package"), format!("{package}\n"))?;
        // Within one file system: either the whole image is there or none.
        fs::rename(&found, image).with_context(|| image.display().to_string())?;
        debian::remove(&scratch)
    }
}

fn unpack_image(deb: &Path, to: &Path) -> Result<()> {
    let mut reader =
        Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdout(Stdio::piped())
            .spawn()
            .context("dpkg-deb could not be started: kernels come as Debian packages; install dpkg")?;
    let tar = reader.stdout.take().context("dpkg-deb has no output")?;
    // boot/vmlinuz-V, or since 7.x usr/lib/modules/V/vmlinuz.
    let extracted = command::run(
        Command::new("tar")
            .args(["--extract", "--wildcards", "--directory"])
            .arg(to)
            .arg("*/vmlinuz*")
            .stdin(tar),
    );
    let status = reader.wait()?;
    extracted?;
    if !status.success() {
        bail!("{}: dpkg-deb failed: {status}", deb.display());
    }
    Ok(())
}

fn find_image(below: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(below)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() && entry.file_name().to_string_lossy().starts_with("vmlinuz") {
            return Ok(Some(entry.path()));
        }
        if kind.is_dir()
            && let Some(image) = find_image(&entry.path())?
        {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_named_by_line_or_by_path() {
        assert_eq!(parse("6.12"), Ok(Wanted::Line(LINES[2])));
        assert_eq!(parse("7.x"), parse("7"));
        assert_eq!(parse("./bzImage"), Ok(Wanted::Image("./bzImage".into())));
        assert!(parse("4.19").unwrap_err().contains("5.10, 6.1, 6.12, 7"));
    }
}
