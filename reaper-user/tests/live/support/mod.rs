//! What the live tests share: the daemon, the workload, containers, cgroups; and how a missing one is reported.

mod api_server;
mod cgroup;
mod container;
mod containerd;
mod cri;
mod daemon;
mod held;
mod image;
mod mount;
mod pins;
mod random;
mod reports;
mod schema;
mod service_account;
mod sys;
mod terminal;
mod tls;
mod workload;

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

pub(crate) use self::{
    api_server::{ApiServer, NODE, kubeconfig_for},
    cgroup::{Cgroup, Parent, pids_mount},
    container::{Container, Rootfs},
    containerd::{Containerd, Pod},
    cri::{Cri, Says},
    daemon::{Daemon, Ended, Seen, assert_refused, each_line, run_briefly},
    held::Held,
    image::{IMAGE, Image, run},
    mount::Mount,
    pins::Pins,
    random::Random,
    reports::Reports,
    schema::assert_valid,
    service_account::ServiceAccount,
    sys::{
        adopt_orphans, boot_now, deny_bpf, deny_wait_for_every_kind, limit_files, queue, signal,
        waiting_bytes,
    },
    terminal::Terminal,
    tls::Authority,
    workload::{Leak, Truth, Workload},
};

/// One second, on the boot clock.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// One millisecond, on the boot clock.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// The machine, for one test at a time: each daemon watches all of it.
///
/// Panics where the tests cannot run, with the command that provides for it.
pub(crate) fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    let guard = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(
        sys::is_root(),
        "the live tests load programs into the kernel: `cargo xtask test live` runs them as root"
    );
    guard
}

/// True for the long forms.
pub(crate) fn full() -> bool {
    env::var_os("REAPER_TEST_FULL").is_some()
}

/// `short`, or `long` for the long forms.
pub(crate) fn rounds<T>(short: T, long: T) -> T {
    if full() { long } else { short }
}

/// What a limit in time is multiplied with. The long forms hold the figures that are claimed; the short ones run on machines
/// that do other work, too, and find what is wrong by an order of magnitude.
pub(crate) fn leeway() -> u32 {
    rounds(10, 1)
}

/// The binary under test.
pub(crate) fn reaper() -> PathBuf {
    env::var_os("REAPER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_reaper").into(), PathBuf::from)
}

/// The workload program.
pub(crate) fn churn() -> PathBuf {
    built_example("churn")
}

/// An example beside the binary under test, else beside the tests.
pub(crate) fn built_example(name: &str) -> PathBuf {
    let tests = env::current_exe().unwrap();
    let places = [reaper().with_file_name("examples"), tests.with_file_name("../examples")];
    let found = places.iter().map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "no `{name}` in {places:?}: `cargo build --examples` makes it, `cargo xtask test live` does both"
        )
    })
}

/// A program that a package brings.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: `cargo xtask setup` installs it"))
}

/// A file of the tests themselves.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live").join(name)
}
