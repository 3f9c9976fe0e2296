//! What a service manager is told, and what it asked to be told: sd_notify(3).
#![expect(unsafe_code, reason = "taking variables out of the environment is unsafe where there are threads")]

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use sd_notify::NotifyState;

/// The variables by which a service manager says where to and how often.
const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: [&str; 2] = ["WATCHDOG_USEC", "WATCHDOG_PID"];

/// It is not told more often than this.
const SHORTEST: Duration = Duration::from_millis(1);

/// The way to the service manager. Without one, nothing is said.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says, out of which it is taken: no child shall speak for us. To be called before there are
    /// threads; where there are some it stays in the environment.
    pub(super) fn from_environment() -> Self {
        let (named, watchdog) = (env::var_os(SOCKET), sd_notify::watchdog_enabled());
        let alone = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
        if alone {
            for name in [SOCKET].iter().chain(&WATCHDOG) {
                // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
                unsafe { env::remove_var(name) };
            }
        }
        Self::new(named, watchdog)
    }

    fn new(named: Option<OsString>, watchdog: Option<Duration>) -> Self {
        let socket = named.and_then(|named| {
            connect(&named).inspect_err(|error| tracing::warn!("{SOCKET}={}: {error}", named.display())).ok()
        });
        Self { socket, watchdog }
    }

    /// How often it wants to hear that we are alive: half of the time after which it would act.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog).map(|limit| (limit / 2).max(SHORTEST))
    }

    /// It runs, and what it does in words.
    pub(super) fn ready(&self, status: &str) {
        self.say(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// It reads its configuration; it will be ready again.
    pub(super) fn reloading(&self) {
        // The manager tells by the time which reload is meant.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "the monotonic clock"),
        }
    }

    /// It ends.
    pub(super) fn stopping(&self) {
        self.say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// It is alive.
    pub(super) fn alive(&self) {
        self.say(&[NotifyState::Watchdog]);
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        // A manager that does not read must not hold us up: what it has no room for is not said.
        if let Err(error) = socket.send(text.as_bytes()) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

/// The socket may have a path or, behind an `@`, an abstract name.
fn connect(named: &OsStr) -> io::Result<UnixDatagram> {
    let address = match named.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(named)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_state_is_one_message_to_a_path_or_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("reaper-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, named) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ] {
            let notifier = Notifier::new(Some(named), None);
            notifier.ready("watching");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=watching\n");
            notifier.reloading();
            let text = heard(&socket);
            assert!(text.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{text}");
            notifier.alive();
            assert_eq!(heard(&socket), "WATCHDOG=1\n");
            notifier.stopping();
            assert!(heard(&socket).starts_with("STOPPING=1\n"));
        }
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.into()), None);
        (0..10_000).for_each(|_| notifier.alive());
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_no_watchdog_is_fed() {
        let hour = Some(Duration::from_secs(3600));
        for named in [None, Some("/nonexistent/notify"), Some("vsock:2:1234"), Some("")] {
            let notifier = Notifier::new(named.map(OsString::from), hour);
            notifier.ready("watching");
            assert_eq!(notifier.watchdog(), None, "{named:?}");
        }
    }
}
