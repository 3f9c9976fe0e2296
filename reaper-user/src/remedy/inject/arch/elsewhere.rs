//! Architectures that nobody has tried this on. Nothing is done to a holder there: it is refused before it is looked at, and
//! again at each place where something would be needed that is not here.

/// Whether holders can be made to call the kernel on this architecture.
pub const IS_KNOWN: bool = false;

/// As many as fit; they are only ever carried.
pub const WORDS: usize = 34;

/// `ERESTART_RESTARTBLOCK`, of every architecture.
pub const RESTART_BLOCK: i64 = -516;
/// Interrupted.
pub const INTERRUPTED: i64 = -4;

/// No architecture of seccomp's.
pub const AUDIT_ARCH: u32 = 0;

/// A thread's general registers, of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers([u64; WORDS]);

impl Registers {
    /// As ptrace gives them.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// As ptrace takes them.
    #[must_use]
    pub const fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// Of an architecture that this program does not know.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        false
    }

    /// Not known.
    #[must_use]
    pub const fn call(&self) -> Option<u64> {
        None
    }

    /// Not known.
    #[must_use]
    pub const fn result(&self) -> i64 {
        0
    }

    /// Not known.
    #[must_use]
    pub const fn arguments(&self) -> [u64; 6] {
        [0; 6]
    }

    /// Not known.
    #[must_use]
    pub const fn entered_at(&self) -> u64 {
        0
    }

    /// Not known.
    #[must_use]
    pub const fn stack(&self) -> u64 {
        0
    }

    /// As they are.
    #[must_use]
    pub const fn to_be_restarted(self) -> Self {
        self
    }

    /// As they are.
    #[must_use]
    pub const fn to_be_reissued(self) -> Self {
        self
    }

    /// As they are.
    #[must_use]
    pub const fn on_its_own(self) -> Self {
        self
    }

    /// As they are.
    #[must_use]
    pub const fn calling(self, _call: u64, _arguments: [u64; 6], _at: u64, _stack: u64) -> Self {
        self
    }

    /// As they are.
    #[must_use]
    pub const fn calling_instead(self, _call: u64, _arguments: [u64; 6], _at: u64, _stack: u64) -> Self {
        self
    }
}

/// There is none.
pub const FRAME_BYTES: usize = 0;

/// Alignment of the vector registers.
pub const VECTORS_ALIGN: u64 = 64;

/// Bytes behind them.
pub const VECTORS_TAIL: usize = 0;

/// None.
#[must_use]
pub const fn frame(_registers: &Registers, _mask: u64, _returns_to: u64, _vectors_at: u64) -> Vec<u8> {
    Vec::new()
}

/// Without a frame nothing is done to a thread.
#[must_use]
pub fn vectors_in_frame(_image: Vec<u8>) -> Option<Vec<u8>> {
    None
}

/// A call to wait in.
pub const HOLD: i64 = libc::SYS_pselect6;

/// Bytes that are in no program of any length that is searched.
pub const ENTER: &[u8] = NOWHERE;
/// The same.
pub const CALL_AND_RETURN: &[u8] = NOWHERE;
/// The same.
pub const POP_FIRST: &[u8] = NOWHERE;
/// The same.
pub const POP_NUMBER: &[u8] = NOWHERE;
/// The same.
pub const SIGRETURNS: [&[u8]; 1] = [NOWHERE];

const NOWHERE: &[u8] = b"no instruction of an architecture that is not known";
