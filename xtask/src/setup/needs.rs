//! The table of what is needed, by whom and why, and how each thing is recognised: by what is there, never by the
//! name of the distribution.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use clap::ValueEnum;

use self::Group::{Aarch64, Bench, Dist, Kernels, Lint, Live, Object, Vm};
use crate::{
    aarch64,
    compiler::{self, Compiler, Llvm},
    debian, vm,
    workspace::Workspace,
};

/// What one prepares for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Building the BPF object
    Object,
    /// The lint tier
    Lint,
    /// The live tests
    Live,
    /// The benchmark's comparisons
    Bench,
    /// Tests on other kernels, in virtual machines
    Vm,
    /// The kernels that the vm tier boots
    Kernels,
    /// What is shipped, and its checks
    Dist,
    /// Virtual machines of aarch64, which no tier boots
    Aarch64,
}

impl Group {
    /// What the tiers need.
    pub(crate) const ALL: &[Self] =
        &[Self::Object, Self::Lint, Self::Live, Self::Bench, Self::Vm, Self::Kernels, Self::Dist];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Lint => "lint",
            Self::Live => "live",
            Self::Bench => "bench",
            Self::Vm => "vm",
            Self::Kernels => "kernels",
            Self::Dist => "dist",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// One thing that has to be there.
pub(crate) struct Need {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    pub(crate) groups: &'static [Group],
    pub(crate) kind: Kind,
}

/// How a thing is recognised and where it comes from. Packages are named as Debian names them.
pub(crate) enum Kind {
    /// A program on the PATH: the need's name, or what else it is called.
    Program { also: &'static [&'static str], package: &'static str },
    /// A file.
    File { path: &'static str, package: &'static str },
    /// A compiler for the BPF object that has this, and rustup's component with it for where no package is known.
    Compiler { packages: &'static [&'static str], component: &'static str, has: fn(&Compiler) -> bool },
    /// LLVM's development files and objcopy.
    Llvm { package: &'static str },
    /// A program from crates.io, in this release, in the tree's target/tools.
    Tool { version: &'static str, options: &'static [&'static str], with_llvm: bool },
    /// A component of the active toolchain, by rustup's name; the program it brings, and the package of it for a
    /// toolchain that is the distribution's.
    Component { program: &'static str, package: &'static str },
    /// A file system of this kind at this place.
    Mount { kind: &'static str, at: &'static str },
    /// A program whose package is unpacked into target/vm, where that is neither installed nor fits in beside what is, or
    /// where installing it does more than bring the program.
    Unpacked { program: &'static vm::Program, package: &'static str, installs: bool },
    /// A module of Python's.
    Module { module: &'static str, package: &'static str },
    /// Packages from PyPI, in these releases, in the tree's target/tools/python.
    Pypi { packages: &'static [&'static str] },
    /// The images of all kernels that are tested on, and the systemd of one machine.
    Kernels,
    /// The standard library for aarch64, of the compiler that builds the BPF object or of the active toolchain.
    Aarch64,
}

/// In the order of installation: what builds something comes before what it builds.
pub(crate) const NEEDS: &[Need] = &[
    Need {
        name: "compiler with the source of core",
        why: "the BPF object brings its own core",
        groups: &[Object, Lint, Aarch64],
        kind: Kind::Compiler {
            packages: &["cargo-web", "rust-web-src", "rustc-web"],
            component: "rust-src",
            has: |_| true,
        },
    },
    Need {
        name: "clippy of that compiler",
        why: "checks the lints of the BPF programs",
        groups: &[Lint],
        kind: Kind::Compiler {
            // All of them, so that all are of one version.
            packages: &["cargo-web", "rust-web-clippy", "rust-web-src", "rustc-web"],
            component: "clippy",
            has: |compiler| compiler.clippy().is_file(),
        },
    },
    Need {
        name: "LLVM 22",
        why: "bpf-linker links with it, its objcopy strips the object",
        groups: &[Object, Lint],
        kind: Kind::Llvm { package: "llvm-22-dev" },
    },
    Need {
        name: "bpf-linker",
        why: "links the BPF object and writes its BTF",
        groups: &[Object, Lint],
        kind: Kind::Tool {
            version: compiler::BPF_LINKER,
            options: &["--features", "llvm-22"],
            with_llvm: true,
        },
    },
    Need {
        name: "standard library for aarch64",
        why: "checks that the code compiles for it",
        groups: &[Lint, Aarch64],
        kind: Kind::Aarch64,
    },
    Need {
        name: "cargo-deny",
        why: "checks licences, duplicate crates and where crates come from",
        groups: &[Lint],
        // It runs for three seconds; optimizing it took minutes more.
        kind: Kind::Tool { version: "0.20.2", options: &["--debug"], with_llvm: false },
    },
    Need {
        name: "clippy",
        why: "checks the lints",
        groups: &[Lint],
        kind: Kind::Component { program: "cargo-clippy", package: "rust-web-clippy" },
    },
    Need {
        name: "rustfmt",
        why: "checks the formatting",
        groups: &[Lint],
        kind: Kind::Component { program: "rustfmt", package: "rustfmt-web" },
    },
    on_path("runc", "runc", "runs the containers whose zombies are watched", &[Live, Dist]),
    on_path("containerd", "containerd", "runs pods and says what they are called", &[Live]),
    on_path("ctr", "containerd", "brings an image into it", &[Live]),
    on_path(
        "podman",
        "podman",
        "runs a container and says what it is called; builds the image",
        &[Live, Dist],
    ),
    on_path("conmon", "conmon", "watches over that container", &[Live, Dist]),
    on_path("dockerd", "docker.io", "runs another and says what it is called; not left running", &[Live]),
    on_path("docker", "docker.io", "starts it", &[Live]),
    on_path("go", "golang-go", "builds the Go program that never waits", &[Live]),
    on_path("python3", "python3", "runs the Python programs that do not wait, or late", &[Live, Bench, Dist]),
    on_path("gcc", "gcc", "builds the C programs of the tests", &[Live]),
    Need {
        name: "libpython",
        why: "a program that is linked to it is followed in the tests",
        groups: &[Live],
        // Of whatever release.
        kind: Kind::File {
            path: "/usr/lib/x86_64-linux-gnu/pkgconfig/python3-embed.pc",
            package: "libpython3-dev",
        },
    },
    Need {
        name: "C library headers",
        why: "for the C programs of the tests",
        groups: &[Live],
        kind: Kind::File { path: "/usr/include/stdlib.h", package: "libc6-dev" },
    },
    on_path("musl-gcc", "musl-tools", "builds C programs with another C library", &[Live]),
    on_path("node", "nodejs", "runs JavaScript, of which holders are made, too", &[Live]),
    on_path("javac", "openjdk-17-jdk-headless", "compiles a holder in Java", &[Live]),
    on_path("java", "openjdk-17-jre-headless", "runs it", &[Live]),
    on_path("ruby", "ruby", "runs a holder in Ruby", &[Live]),
    on_path("perl", "perl", "runs a holder in Perl", &[Live]),
    on_path("mcs", "mono-mcs", "compiles a holder in C#", &[Live]),
    on_path("mono", "mono-runtime", "runs it", &[Live]),
    Need {
        name: "gunicorn",
        why: "its workers are holders in the tests",
        groups: &[Live],
        // By Debian's own Python, which is not everybody's first.
        kind: Kind::File {
            path: "/usr/lib/python3/dist-packages/gunicorn/__init__.py",
            package: "python3-gunicorn",
        },
    },
    on_path("strip", "binutils", "takes out of binaries what only a debugger wants", &[Dist]),
    on_path("lexgrog", "man-db", "reads man pages as man does", &[Dist]),
    on_path("bash", "bash", "loads its completions", &[Dist]),
    on_path("zsh", "zsh", "loads its completions", &[Dist]),
    on_path("fish", "fish", "loads its completions", &[Dist]),
    on_path(
        "kubectl",
        "kubernetes-client",
        "builds the manifests (of Kubernetes 1.22 or newer; Debian 12 has an older one)",
        &[Dist],
    ),
    Need {
        name: "Python's venv",
        why: "for the packages from PyPI",
        groups: &[Dist],
        kind: Kind::Module { module: "ensurepip", package: "python3-venv" },
    },
    Need {
        name: "validators",
        why: "have the schemas of Kubernetes, of the Prometheus operator and of CycloneDX",
        groups: &[Dist],
        kind: Kind::Pypi {
            packages: &[
                "kubernetes-validate==1.37.0",
                // Of operator 0.80.1; what is newer is for Python 3.14 alone.
                "cloudcoil-models-prometheus-operator==0.80.1.0",
                "cyclonedx-python-lib[json-validation]==11.12.0",
            ],
        },
    },
    on_path("nm", "binutils", "says where functions are, independently of reaper", &[Live]),
    on_path("gdb", "gdb", "is measured beside reaper's own way into a process", &[Bench]),
    on_path("strace", "strace", "shows what the daemon opens", &[Live, Bench]),
    on_path("script", "bsdutils", "makes a terminal for `reaper top`", &[Bench]),
    on_path(
        "bpftool",
        "bpftool",
        "says what is loaded and attached, independently of reaper",
        &[Live, Bench],
    ),
    on_path(
        "prometheus",
        "prometheus",
        "scrapes the daemon and evaluates the deployed rules; not left running",
        &[Live],
    ),
    on_path("promtool", "prometheus", "checks the metrics and tests the rules", &[Live]),
    on_path("unshare", "util-linux", "starts programs in namespaces of their own", &[Live]),
    on_path("setpriv", "util-linux", "starts reaper with fewer privileges", &[Live]),
    on_path("flock", "util-linux", "takes a lock that reaper wants", &[Live]),
    on_path("mount", "mount", "mounts file systems of the tests' own", &[Live]),
    on_path(
        "mkfs.btrfs",
        "btrfs-progs",
        "makes a file system whose files have devices of their own",
        &[Live],
    ),
    on_path("bindfs", "bindfs", "is a file system that a program answers for", &[Live]),
    on_path("ps", "procps", "says who is a zombie, independently of reaper", &[Live, Bench]),
    Need {
        name: "bpf file system",
        why: "programs and maps are pinned there",
        groups: &[Live, Bench],
        kind: Kind::Mount { kind: "bpf", at: "/sys/fs/bpf" },
    },
    Need {
        name: "trace file system",
        why: "the tests ask the kernel's own tracing for the truth",
        groups: &[Live, Bench],
        kind: Kind::Mount { kind: "tracefs", at: "/sys/kernel/tracing" },
    },
    Need {
        name: "prometheus-node-exporter",
        why: "measured beside reaper; not left running",
        groups: &[Bench],
        kind: Kind::Program { also: &["node_exporter"], package: "prometheus-node-exporter" },
    },
    Need {
        name: "prometheus-process-exporter",
        why: "measured beside reaper; not left running",
        groups: &[Bench],
        kind: Kind::Program { also: &["process-exporter"], package: "prometheus-process-exporter" },
    },
    Need {
        name: "qemu-system-x86_64",
        why: "boots other kernels",
        groups: &[Vm],
        kind: Kind::Unpacked { program: &vm::QEMU, package: "qemu-system-x86", installs: true },
    },
    Need {
        name: "qemu-system-aarch64",
        why: "boots kernels of aarch64",
        groups: &[Aarch64],
        kind: Kind::Unpacked { program: &vm::QEMU_AARCH64, package: "qemu-system-arm", installs: true },
    },
    on_path(
        aarch64::LINKER,
        "gcc-aarch64-linux-gnu",
        "compiles what crates have in C when the code for aarch64 is checked, and links the programs of its machines",
        &[Lint, Aarch64],
    ),
    Need {
        name: "C library for aarch64",
        why: "is linked into them",
        groups: &[Lint, Aarch64],
        kind: Kind::File { path: "/usr/aarch64-linux-gnu/lib/libc.a", package: "libc6-dev-arm64-cross" },
    },
    Need {
        name: "apparmor_parser",
        why: "compiles the profiles that holders are confined by",
        groups: &[Vm, Aarch64],
        // Installed, the package would have its profiles confine programs from the next boot on.
        kind: Kind::Unpacked { program: &vm::APPARMOR_PARSER, package: "apparmor", installs: false },
    },
    Need {
        name: "keys of Debian's archive",
        why: "say that a fetched kernel, interpreter or library is Debian's",
        groups: &[Lint, Live, Vm, Kernels, Aarch64],
        kind: Kind::File { path: debian::KEYRING, package: "debian-archive-keyring" },
    },
    Need {
        name: "kernels to boot",
        why: "the tests run on each of them",
        groups: &[Kernels],
        kind: Kind::Kernels,
    },
];

/// The row of a program that is called the same everywhere.
const fn on_path(
    name: &'static str,
    package: &'static str,
    why: &'static str,
    groups: &'static [Group],
) -> Need {
    Need { name, why, groups, kind: Kind::Program { also: &[], package } }
}

impl Need {
    pub(crate) fn is_met(&self, workspace: &Workspace) -> anyhow::Result<bool> {
        Ok(match self.kind {
            Kind::Program { also, .. } => {
                std::iter::once(&self.name).chain(also).any(|name| program(name).is_some())
            }
            Kind::File { path, .. } => Path::new(path).exists(),
            Kind::Compiler { has, .. } => Compiler::find().is_ok_and(|compiler| has(&compiler)),
            Kind::Llvm { .. } => Llvm::find().is_ok(),
            Kind::Tool { version, .. } => compiler::tool_is(workspace, self.name, version),
            // rustup puts a proxy on the PATH even where the component is not installed.
            Kind::Component { program, .. } => {
                compiler::active_sysroot()?.join("bin").join(program).is_file()
            }
            Kind::Mount { kind, at } => is_mounted(kind, at)?,
            Kind::Unpacked { program, .. } => program.find(workspace)?.is_some(),
            Kind::Module { module, .. } => has_module(module),
            Kind::Pypi { packages } => pypi_has(workspace, packages),
            Kind::Kernels => vm::has_kernels(workspace),
            Kind::Aarch64 => aarch64::is_there(workspace),
        })
    }

    /// Debian's packages that provide it.
    pub(crate) fn packages(&self) -> &[&'static str] {
        match &self.kind {
            Kind::Program { package, .. }
            | Kind::File { package, .. }
            | Kind::Llvm { package }
            | Kind::Module { package, .. }
            | Kind::Unpacked { package, .. } => std::slice::from_ref(package),
            Kind::Component { package, .. } if compiler::is_the_distributions() => {
                std::slice::from_ref(package)
            }
            Kind::Compiler { packages, .. } => packages,
            Kind::Tool { .. }
            | Kind::Component { .. }
            | Kind::Mount { .. }
            | Kind::Pypi { .. }
            | Kind::Kernels
            | Kind::Aarch64 => &[],
        }
    }

    /// Where it comes from, for people.
    pub(crate) fn source(&self) -> String {
        match self.kind {
            Kind::Tool { version, .. } => format!("{version} from crates.io, into target/tools"),
            Kind::Mount { kind, at } => format!("mount -t {kind} {kind} {at}"),
            Kind::Pypi { packages } => format!("{} from PyPI, into target/tools", packages.join(" ")),
            Kind::Kernels => "Debian's archive, into target/vm".to_owned(),
            Kind::Aarch64 => "Debian's archive, into target/aarch64, or a target of rustup's".to_owned(),
            Kind::Unpacked { package, installs: false, .. } => format!("Debian: {package}, into target/vm"),
            _ if self.packages().is_empty() => "a component of the toolchain".to_owned(),
            _ => format!("Debian: {}", self.packages().join(" ")),
        }
    }
}

/// Looks on the PATH, and where administrators' programs are: those are not on everybody's PATH.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn has_module(module: &str) -> bool {
    let import = format!("import {module}");
    let mut python = Command::new("python3");
    python.args(["-c", &import]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

/// What has been installed there is written down when it is complete.
fn pypi_has(workspace: &Workspace, packages: &[&str]) -> bool {
    fs::read_to_string(pypi_record(workspace)).is_ok_and(|text| text.lines().eq(packages.iter().copied()))
}

pub(super) fn pypi_record(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("python/reaper-packages")
}

fn is_mounted(kind: &str, at: &str) -> anyhow::Result<bool> {
    let mounts = "/proc/self/mounts";
    let text = fs::read_to_string(mounts).with_context(|| format!("could not read {mounts}"))?;
    Ok(lists_mount(&text, kind, at))
}

/// Lines are `source place kind options 0 0`.
fn lists_mount(mounts: &str, kind: &str, at: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(at) && fields.next() == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_counts_with_its_kind_and_place_only() {
        let mounts = "bpf /sys/fs/bpf bpf rw 0 0\ntmpfs /sys/kernel/tracing tmpfs rw 0 0\n";
        assert!(lists_mount(mounts, "bpf", "/sys/fs/bpf"));
        assert!(!lists_mount(mounts, "tracefs", "/sys/kernel/tracing"));
        assert!(!lists_mount(mounts, "bpf", "/sys/fs"));
    }

    #[test]
    fn every_group_has_a_need_and_every_need_a_group() {
        for group in Group::ALL {
            assert!(NEEDS.iter().any(|need| need.groups.contains(group)), "{}", group.name());
        }
        assert!(NEEDS.iter().all(|need| !need.groups.is_empty()));
    }

    #[test]
    fn a_program_is_found_on_the_path_and_a_made_up_one_is_not() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-anywhere").is_none());
    }
}
