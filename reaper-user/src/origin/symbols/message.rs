//! What the daemon and the symbolizing process say to each other: one packet a request, one packet an answer. A packet is
//! the length of its JSON, the JSON, and bytes that only a request has: the stack. Descriptors go with the request.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::origin::native::Registers;

/// Bytes of a packet. The largest that a socket carries whole by default is somewhat more:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/net/sock.h> (`SK_WMEM_MAX`)
pub const PACKET: usize = 192 << 10;

/// Descriptors that go with one request: <https://elixir.bootlin.com/linux/v6.12/source/include/net/scm.h> (`SCM_MAX_FD`)
pub const FILES: usize = 253;

/// Bytes of a stack that are copied at a fork.
pub const STACK: usize = 32 << 10;

/// Executable mappings of a process that are looked at. Each takes some 60 bytes of a packet.
pub const SPANS: usize = 1_024;

/// Frames of a stack.
pub const FRAMES: usize = 128;

/// Addresses that one request asks the names of.
pub const ADDRESSES: usize = FRAMES;

/// Bytes of a name or a path, of which the rest is cut off.
pub const NAME: usize = 512;

/// Words of `_Py_DebugOffsets` that are read; later versions have more.
pub const OFFSETS: usize = 84;

/// Functions that were inlined into one another at one address.
pub const INLINED: usize = 16;

/// What the symbolizing process is asked. A file is an index into the descriptors that came with the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The frames of a stack, whose bytes from the stack pointer on follow the JSON.
    Unwind {
        /// As the forker had them.
        registers: Registers,
        /// Its executable mappings, in the order of their addresses.
        spans: Vec<Span>,
    },
    /// The functions at these addresses.
    Symbolize {
        /// Each in its file.
        addresses: Vec<Place>,
        /// A file of debug information for a file, by the same build id.
        debug: Vec<(u16, u16)>,
    },
    /// What the executable or library in file 0 has of CPython.
    Cpython,
    /// The names that the perf map in file 0 has for these addresses.
    PerfMap {
        /// As the process has them.
        addresses: Vec<u64>,
    },
}

/// An executable mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its first address.
    pub start: u64,
    /// The one behind its last.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// Which file; `None` where there is none or it could not be opened.
    pub file: Option<u16>,
    /// Whether it is memory without a file: what a virtual machine compiled is in such.
    pub anonymous: bool,
}

/// An address in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Which file.
    pub file: u16,
    /// The address as the file states it.
    pub address: u64,
}

/// What the symbolizing process answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A stack's frames.
    Unwound(Unwound),
    /// Of each address the functions, the innermost first; none where none is known.
    Symbolized(Vec<Vec<Function>>),
    /// What a file has of CPython.
    Cpython(Cpython),
    /// Of each address its name.
    PerfMap(Vec<Option<String>>),
    /// The request made no sense.
    Refused(String),
}

/// What a file has of CPython.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cpython {
    /// Nothing.
    Other,
    /// It is linked to libpython.
    Linked,
    /// It has the interpreter.
    Interpreter(Interpreter),
}

/// An interpreter in a file. Addresses are as the file states them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// `_PyRuntime`; in 3.6 `interp_head`.
    pub symbol: u64,
    /// How it lays out its state.
    pub version: Version,
    /// Where its code begins, as the kernel sees it (`mm_struct.start_code`).
    pub code: u64,
    /// Where the file's first page is.
    pub first: u64,
}

/// How an interpreter lays out its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// As version 3.6 to 3.12 do.
    Minor(u32),
    /// As it says itself: the first [`OFFSETS`] words at its symbol.
    Offsets(Vec<u64>),
}

/// A stack's frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwound {
    /// The innermost first.
    pub frames: Vec<Unnamed>,
    /// Whether the last one is the stack's outermost, as far as can be told.
    pub complete: bool,
    /// Of each file its build id, in hexadecimal digits.
    pub build_ids: Vec<Option<String>>,
}

/// A frame before its function is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unnamed {
    /// An address of the instruction that it stands in; of a call the last byte.
    pub at: u64,
    /// Where that is in a file.
    pub place: Option<Place>,
    /// Whether it or a frame before it was found by a guess.
    pub guessed: bool,
}

/// A function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name, demangled.
    pub name: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// Whether it was inlined into the next one.
    pub inlined: bool,
}

/// A packet could not be made or understood.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is too large.
    #[error("a packet of {0} bytes, of which {PACKET} are allowed")]
    TooLarge(usize),
    /// It is no packet.
    #[error("no packet of the symbolizing process")]
    Malformed,
    /// Its JSON is not what it should be.
    #[error("a packet of the symbolizing process: {0}")]
    Json(#[from] serde_json::Error),
}

/// Makes a packet.
pub fn pack(message: &impl Serialize, bytes: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let json = serde_json::to_vec(message)?;
    let length = json.len() + bytes.len() + 4;
    if length > PACKET {
        return Err(Unreadable::TooLarge(length));
    }
    let mut packet = Vec::with_capacity(length);
    packet.extend(u32::try_from(json.len()).map_err(|_| Unreadable::TooLarge(length))?.to_le_bytes());
    packet.extend(json);
    packet.extend(bytes);
    Ok(packet)
}

/// Understands a packet.
pub fn unpack<T: DeserializeOwned>(packet: &[u8]) -> Result<(T, &[u8]), Unreadable> {
    let (length, rest) = packet.split_first_chunk::<4>().ok_or(Unreadable::Malformed)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Unreadable::Malformed)?;
    let (json, bytes) = rest.split_at_checked(length).ok_or(Unreadable::Malformed)?;
    Ok((serde_json::from_slice(json)?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_understood_as_it_was_made() {
        let request = Request::PerfMap { addresses: vec![1, u64::MAX] };
        let packet = pack(&request, b"stack").unwrap();
        assert_eq!(unpack::<Request>(&packet).unwrap(), (request, b"stack".as_slice()));
    }

    #[test]
    fn the_largest_request_fits_a_packet() {
        let span = Span {
            start: 0x7fff_ffff_f000,
            end: 0x7fff_ffff_f000,
            offset: u64::from(u32::MAX),
            file: Some(250),
            anonymous: false,
        };
        let request = Request::Unwind { registers: Registers::default(), spans: vec![span; SPANS] };
        assert!(pack(&request, &[0; STACK]).is_ok());
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for packet in [&b""[..], b"abc", b"\xff\xff\xff\xff{}", b"\x02\0\0\0{}"] {
            assert!(unpack::<Request>(packet).is_err(), "{packet:?}");
        }
        assert!(matches!(pack(&0, &[0; PACKET]), Err(Unreadable::TooLarge(_))));
    }
}
