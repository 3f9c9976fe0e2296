//! What the exit code of `reaper` means. The numbers are sysexits(3)'s, so that a service manager or a script
//! can tell a typing error from a missing privilege.

/// Done. Also when a foreground command was ended with Ctrl-C, by its `--duration`, or because whoever read its
/// output went away.
pub const OK: u8 = 0;

/// A remedy was refused, or only part of it was done.
pub const REFUSED: u8 = 1;

/// The command line is wrong: an unknown flag, a bad value. `EX_USAGE`.
pub const USAGE: u8 = 64;

/// Something that is needed is not there: a kernel feature, the lock (another daemon holds it), the initial pid
/// namespace, somebody who reads what the daemon writes. `EX_UNAVAILABLE`.
pub const UNAVAILABLE: u8 = 69;

/// A privilege is missing, and the message says which. `EX_NOPERM`.
pub const PERMISSION: u8 = 77;

/// The configuration file is wrong, or others than root may write it. `EX_CONFIG`.
pub const CONFIG: u8 = 78;
