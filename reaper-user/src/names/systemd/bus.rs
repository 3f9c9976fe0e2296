//! As much of D-Bus as two questions take: calls with texts, answered with one. A crate for all of it would be a fifth of the program.
//! <https://dbus.freedesktop.org/doc/dbus-specification.html>

use std::{io, path::Path};

use rustix::process::getuid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// Bytes of a message that is read.
const BYTES: usize = 64 * 1024;

/// Bytes of a line before the first message.
const LINE: usize = 512;

/// The parts of a message's head, by their codes.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// How the numbers of a message are written: as this machine does, which is what everybody on it does.
const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not let this user in.
    #[error("the bus refuses this user")]
    Unwelcome,
    /// What came is no message, or none of those that are read here.
    #[error("what the bus says is not understood")]
    Nonsense,
    /// Whoever was called says no, by the name of an error.
    #[error("{0}")]
    Refused(String),
}

/// A call.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) to: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: &'a [&'a str],
}

/// A connection.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    pub(super) async fn connect(socket: &Path) -> Result<Self, BusError> {
        let mut stream = UnixStream::connect(socket).await?;
        // Who we are, the kernel tells the bus; this says that it is to believe that.
        let uid: String = getuid().as_raw().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() >= LINE {
                return Err(BusError::Nonsense);
            }
            line.push(stream.read_u8().await?);
        }
        if !line.starts_with(b"OK ") {
            return Err(BusError::Unwelcome);
        }
        stream.write_all(b"BEGIN\r\n").await?;
        let mut this = Self { stream, serial: 0 };
        let hello = Call {
            to: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            arguments: &[],
        };
        this.call(hello).await?;
        Ok(this)
    }

    /// The text that answers it: a string, a path, or a variant with one of these.
    pub(super) async fn call(&mut self, call: Call<'_>) -> Result<String, BusError> {
        self.serial += 1;
        self.stream.write_all(&call.message(self.serial)).await?;
        loop {
            let message = Message::read(&mut self.stream).await?;
            // Others may come first: that we have a name now.
            if message.answers == Some(self.serial) {
                return message.text();
            }
        }
    }
}

impl Call<'_> {
    fn message(&self, serial: u32) -> Vec<u8> {
        let Self { to, path, interface, member, arguments } = self;
        let mut body = Vec::new();
        for argument in *arguments {
            put_text(&mut body, argument);
        }
        let mut fields = Vec::new();
        let parts = [
            (PATH, b'o', path),
            (INTERFACE, b's', interface),
            (MEMBER, b's', member),
            (DESTINATION, b's', to),
        ];
        for (code, kind, text) in parts {
            pad(&mut fields, 8);
            fields.extend([code, 1, kind, 0]);
            put_text(&mut fields, text);
        }
        if let (false, Ok(count)) = (arguments.is_empty(), u8::try_from(arguments.len())) {
            pad(&mut fields, 8);
            fields.extend([SIGNATURE, 1, b'g', 0, count]);
            fields.extend(arguments.iter().map(|_| b's'));
            fields.push(0);
        }
        let mut message = vec![ENDIAN, CALL, 0, 1];
        message.extend(length(&body).to_ne_bytes());
        message.extend(serial.to_ne_bytes());
        message.extend(length(&fields).to_ne_bytes());
        // The head has 16 bytes by now, so that what is aligned in the fields is so in the message.
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        message
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    bytes.extend(length(text.as_bytes()).to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// Nothing here is as long as a message may be.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// What came.
pub(super) struct Message {
    kind: u8,
    /// The serial of the call that it answers.
    answers: Option<u32>,
    error: Option<String>,
    body: Vec<u8>,
    signature: Vec<u8>,
}

impl Message {
    pub(super) async fn read(stream: &mut UnixStream) -> Result<Self, BusError> {
        let mut head = [0; 16];
        stream.read_exact(&mut head).await?;
        let mut rest = Reader { bytes: &head, at: 4 };
        let (body, _serial, fields) = (rest.number()?, rest.number()?, rest.number()?);
        let [body, fields] = [body, fields].map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if head[0] != ENDIAN || body.max(fields) > BYTES {
            return Err(BusError::Nonsense);
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        stream.read_exact(&mut rest).await?;
        let body = rest.split_off(fields.next_multiple_of(8));
        let mut this = Self { kind: head[1], answers: None, error: None, body, signature: Vec::new() };
        let mut fields = Reader { bytes: rest.get(..fields).unwrap_or_default(), at: 0 };
        while fields.at < fields.bytes.len() {
            fields.align(8);
            let code = fields.byte()?;
            match *fields.signature()? {
                [b's' | b'o'] => {
                    let text = fields.text()?;
                    if code == ERROR_NAME {
                        this.error = Some(text);
                    }
                }
                [b'u'] => {
                    let number = fields.number()?;
                    if code == REPLY_SERIAL {
                        this.answers = Some(number);
                    }
                }
                [b'g'] => {
                    let signature = fields.signature()?.to_vec();
                    if code == SIGNATURE {
                        this.signature = signature;
                    }
                }
                _ => return Err(BusError::Nonsense),
            }
        }
        Ok(this)
    }

    pub(super) fn text(&self) -> Result<String, BusError> {
        let mut body = Reader { bytes: &self.body, at: 0 };
        match (self.kind, &self.signature[..], &self.error) {
            (ERROR, _, Some(name)) => Err(BusError::Refused(name.clone())),
            (ANSWER, b"s" | b"o", _) => body.text(),
            (ANSWER, b"v", _) => match body.signature()? {
                b"s" | b"o" => body.text(),
                _ => Err(BusError::Nonsense),
            },
            _ => Err(BusError::Nonsense),
        }
    }
}

/// Reads the values of a message one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BusError> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        self.at += count;
        taken.ok_or(BusError::Nonsense)
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        self.take(1)?.first().copied().ok_or(BusError::Nonsense)
    }

    fn number(&mut self) -> Result<u32, BusError> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| BusError::Nonsense)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, BusError> {
        let length = usize::try_from(self.number()?).map_err(|_| BusError::Nonsense)?;
        // Where it is longer than a message, `take` finds nothing.
        let text = self.take(length.min(BYTES + 1))?.to_vec();
        self.take(1)?;
        String::from_utf8(text).map_err(|_| BusError::Nonsense)
    }

    /// The types of values, a letter each.
    fn signature(&mut self) -> Result<&'a [u8], BusError> {
        let length = self.byte()?;
        let signature = self.take(usize::from(length))?;
        self.take(1)?;
        Ok(signature)
    }
}
