//! The states in which a thread rests, and what the kernel promises for each when it is stopped and let go.

use std::time::Duration;

/// How a call goes on after its thread was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// As if nothing had been.
    Exact,
    /// With EINTR when a debugger attaches; it has no timeout, so that it can be made again.
    Untimed,
    /// With EINTR when a debugger attaches.
    Timed,
    /// It cannot be stopped.
    Vfork,
    /// The thread is in no call.
    User,
}

/// What a signal does that comes while a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heeds {
    /// With any handler it ends with EINTR.
    Always,
    /// Unless the handler was set with `SA_RESTART`.
    UnlessRestarted,
    /// It goes on.
    Never,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// The holder's name for it.
    pub(super) name: &'static str,
    pub(super) class: Class,
    pub(super) heeds: Heeds,
    /// It ends by itself when its time is up; others are released.
    pub(super) timed: bool,
    /// How much too early the kernel may end it: some timeouts are counted in ticks of at most 10 ms.
    pub(super) grain: Duration,
}

const fn state(name: &'static str, class: Class, heeds: Heeds, timed: bool) -> State {
    State { name, class, heeds, timed, grain: Duration::ZERO }
}

const fn asleep(name: &'static str) -> State {
    state(name, Class::Exact, Heeds::Always, true)
}

const fn waiting(name: &'static str) -> State {
    state(name, Class::Exact, Heeds::UnlessRestarted, false)
}

const fn untimed(name: &'static str) -> State {
    state(name, Class::Untimed, Heeds::Always, false)
}

const fn timed(name: &'static str) -> State {
    state(name, Class::Timed, Heeds::Always, true)
}

const fn by_ticks(state: State) -> State {
    State { grain: Duration::from_millis(10), ..state }
}

/// Calls that go on as if nothing had been.
pub(super) const EXACT: [State; 25] = [
    asleep("nanosleep"),
    asleep("clock-nanosleep-relative"),
    asleep("clock-nanosleep-absolute"),
    asleep("select"),
    asleep("pselect6"),
    asleep("poll-timed"),
    State { timed: false, ..asleep("poll") },
    asleep("ppoll"),
    waiting("futex"),
    asleep("futex-relative"),
    asleep("futex-absolute"),
    waiting("read"),
    waiting("read-inotify"),
    State { timed: true, ..waiting("read-timerfd") },
    waiting("recv"),
    waiting("accept"),
    waiting("write"),
    waiting("open-fifo"),
    waiting("wait4"),
    waiting("waitid"),
    State { timed: false, ..asleep("pause") },
    State { timed: false, ..asleep("rt-sigsuspend") },
    waiting("flock"),
    waiting("fcntl-setlkw"),
    State { timed: false, ..asleep("msgrcv") },
];

/// Calls without a timeout that a debugger interrupts.
pub(super) const UNTIMED: [State; 4] =
    [untimed("epoll-wait"), untimed("rt-sigtimedwait"), untimed("semop"), untimed("io-uring-enter")];

/// Calls with a timeout that a debugger interrupts.
pub(super) const TIMED: [State; 7] = [
    timed("epoll-wait-timed"),
    timed("epoll-pwait-timed"),
    timed("epoll-pwait2-timed"),
    by_ticks(timed("recv-timed")),
    timed("rt-sigtimedwait-timed"),
    by_ticks(timed("semtimedop")),
    timed("io-getevents-timed"),
];

/// The parent of a vfork.
pub(super) const VFORK: State = state("vfork", Class::Vfork, Heeds::Never, true);

/// A loop that makes no call.
pub(super) const USER: State = state("user-code", Class::User, Heeds::Never, false);

/// A loop through restartable critical sections.
pub(super) const RSEQ: State = State { name: "rseq", ..USER };

/// All that can be stopped in a call.
pub(super) fn in_calls() -> impl Iterator<Item = State> {
    EXACT.into_iter().chain(UNTIMED).chain(TIMED)
}

/// The one of this name.
pub(super) fn named(name: &str) -> State {
    in_calls().find(|state| state.name == name).unwrap_or_else(|| panic!("no state {name}"))
}
