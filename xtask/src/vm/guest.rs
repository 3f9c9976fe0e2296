//! What is inside the VM: statically linked programs and a handful of directories, in an initramfs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{cpio::Archive, policy, systemd};
use crate::{
    release::{DAEMON, INIT, Release, SYSTEMD_TEST, VM_TEST},
    workspace::Workspace,
};

/// The directories of the guest, parents first.
const DIRECTORIES: [&str; 9] = ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "vm"];

/// What tests find by `PATH`: the daemon, the workloads.
const PROGRAMS: [&str; 4] = [DAEMON, "churn", "forker", "holder"];

/// How a guest's cgroups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cgroup {
    /// Only the v1 pids controller.
    V1,
    /// Only v2.
    V2,
    /// Both, as systemd's hybrid layout has it.
    Both,
}

impl Cgroup {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Both => "both",
        }
    }
}

/// What the init is told.
pub(crate) struct Orders<'a> {
    pub(crate) cgroup: Cgroup,
    /// That PID 1 becomes systemd.
    pub(crate) systemd: bool,
    pub(crate) pid_max: Option<u32>,
    /// For one test program.
    pub(crate) timeout: Duration,
    pub(crate) args: &'a [String],
}

/// The programs of the guest.
pub(crate) struct Guest {
    init: Vec<u8>,
    /// [`PROGRAMS`].
    programs: Vec<(String, Vec<u8>)>,
    tests: Vec<(String, Vec<u8>)>,
    /// AppArmor's, for the kernel.
    policy: Vec<u8>,
    systemd: Option<Systemd>,
}

/// What else is in a guest whose PID 1 becomes systemd.
struct Systemd {
    root: PathBuf,
    /// Of the working tree.
    workspace: PathBuf,
    test: (String, Vec<u8>),
}

impl Guest {
    /// Reads everything for the guest from the release build.
    ///
    /// What runs in it are the `given` programs, statically linked too, or the integration test `vm` where none is
    /// given.
    pub(crate) fn new(
        workspace: &Workspace,
        release: &Release,
        given: &[PathBuf],
        systemd: Option<PathBuf>,
    ) -> Result<Self> {
        let named = |name: &str| Ok((name.to_owned(), static_program(&release.program(name)?)?));
        let tests = if given.is_empty() {
            vec![named(VM_TEST)?]
        } else {
            given.iter().map(|path| Ok((name_of(path), static_program(path)?))).collect::<Result<_>>()?
        };
        let systemd = match systemd {
            Some(root) => {
                let test = named(SYSTEMD_TEST)?;
                Some(Systemd { root, workspace: workspace.root().to_path_buf(), test })
            }
            None => None,
        };
        Ok(Self {
            init: static_program(&release.program(INIT)?)?,
            programs: PROGRAMS.into_iter().map(named).collect::<Result<_>>()?,
            tests,
            policy: policy::compile(workspace)?,
            systemd,
        })
    }

    /// The initramfs for one boot.
    pub(crate) fn initramfs(&self, orders: &Orders<'_>) -> Result<Vec<u8>> {
        let Self { init, programs, tests: _, policy, systemd } = self;
        let mut archive = Archive::new();
        for path in DIRECTORIES {
            archive.directory(path)?;
        }
        // The kernel opens it for the init before anything is mounted.
        archive.character_device("dev/console", 5, 1)?;
        archive.executable("init", init)?;
        archive.executable("bin/true", init)?;
        for (name, program) in programs {
            archive.executable(&format!("bin/{name}"), program)?;
        }
        for (name, program) in self.tests_for(orders) {
            archive.executable(&format!("vm/{name}"), program)?;
        }
        if let Some(Systemd { root, workspace, test: _ }) = systemd.as_ref().filter(|_| orders.systemd) {
            systemd::add(&mut archive, root, workspace)?;
        }
        archive.file("vm/apparmor", policy)?;
        archive.file("vm/boot", self.orders(orders).as_bytes())?;
        archive.finish()
    }

    fn tests_for(&self, orders: &Orders<'_>) -> &[(String, Vec<u8>)] {
        match &self.systemd {
            Some(Systemd { test, .. }) if orders.systemd => std::slice::from_ref(test),
            _ => &self.tests,
        }
    }

    /// `key=value`, each ended by NUL, which no argument can contain.
    fn orders(&self, orders: &Orders<'_>) -> String {
        let Orders { cgroup, systemd, pid_max, timeout, args } = orders;
        let mut text = format!("cgroup={}\0timeout={}\0", cgroup.as_str(), timeout.as_secs());
        if let Some(pid_max) = pid_max {
            text += &format!("pid-max={pid_max}\0");
        }
        if *systemd {
            text += "systemd=yes\0";
        }
        for (name, _) in self.tests_for(orders) {
            text += &format!("run=/vm/{name}\0");
        }
        for arg in *args {
            text += &format!("arg={arg}\0");
        }
        text
    }
}

/// A test's name without the hash that cargo appends.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    match name.rsplit_once('-') {
        Some((stem, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            stem.to_owned()
        }
        _ => name.into_owned(),
    }
}

/// Reads a program, which has to be one that the guest, without any library, can run.
fn static_program(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    match interpreter(&bytes) {
        Some(false) => Ok(bytes),
        Some(true) => bail!(
            "{}: dynamically linked, and the guest has no libraries; build it with RUSTFLAGS=\"-C \
             target-feature=+crt-static\" and --target",
            path.display()
        ),
        None => bail!("{}: not a 64-bit little-endian ELF program", path.display()),
    }
}

/// Whether an ELF file asks for a dynamic linker (a `PT_INTERP` segment). `None`: not an ELF file of our kind.
fn interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (u16_at(54)?, u16_at(56)?);
    for index in 0..count {
        let at = table.checked_add(index * size)?;
        let kind = elf.get(at..at.checked_add(4)?)?;
        if u32::from_le_bytes(kind.try_into().ok()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(segments: &[u32]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0);
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::try_from(segments.len()).unwrap();
        for kind in segments {
            let end = bytes.len() + 56;
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.resize(end, 0);
        }
        bytes
    }

    #[test]
    fn a_program_that_wants_a_dynamic_linker_is_told_apart() {
        assert_eq!(interpreter(&elf(&[1, 2])), Some(false));
        assert_eq!(interpreter(&elf(&[6, 3, 1])), Some(true));
        assert_eq!(interpreter(b"#!/bin/sh"), None);
        assert_eq!(interpreter(&elf(&[1, 3])[..70]), None);
    }

    #[test]
    fn the_hash_that_cargo_appends_is_not_part_of_a_tests_name() {
        assert_eq!(name_of(Path::new("/t/deps/vm-0123456789abcdef")), "vm");
        assert_eq!(name_of(Path::new("/t/load-all")), "load-all");
    }

    #[test]
    fn orders_are_separated_so_that_any_argument_survives() {
        let guest = Guest {
            init: vec![],
            programs: vec![],
            tests: vec![("vm".to_owned(), vec![])],
            policy: vec![],
            systemd: None,
        };
        let args = ["a b\nc".to_owned()];
        let orders = Orders {
            cgroup: Cgroup::Both,
            systemd: false,
            pid_max: Some(400),
            timeout: Duration::from_secs(90),
            args: &args,
        };
        assert_eq!(guest.orders(&orders), "cgroup=both\0timeout=90\0pid-max=400\0run=/vm/vm\0arg=a b\nc\0");
    }
}
