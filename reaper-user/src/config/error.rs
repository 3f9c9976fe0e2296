//! What can be wrong with a configuration file, and where.

use std::{
    fmt, io,
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use thiserror::Error;
use toml::de::{DeTable, DeValue};

use crate::text::Untrusted;

/// A place in a file, as an editor counts: both from one, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column } = self;
        write!(f, "{line}:{column}")
    }
}

/// Why a configuration file is not taken.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It could not be opened or read.
    #[error("{path}: cannot be read: {source}", path = shown(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("{path}: is not a regular file", path = shown(path))]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than any configuration.
    #[error("{path}: is larger than {max} bytes, which no configuration is", path = shown(path), max = super::MAX_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to somebody who could then tell the daemon what to do.
    #[error("{path}: belongs to user {owner}, and what a daemon that runs as root reads must be root's: chown root:root {path}", path = shown(path))]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others than its owner may write it.
    #[error("{path}: its mode is {mode:04o}, and only root may be able to write it: chmod go-w {path}", path = shown(path))]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its text is not a configuration.
    #[error("{path}:{position}: {key}{message}", path = shown(path), key = key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: Position,
        /// Which key, with the tables around it: `ledger.entries`. `None` where the text is not TOML.
        key: Option<Untrusted>,
        /// What is wrong and what can be written.
        message: Untrusted,
    },
}

impl ConfigError {
    /// Where in the file it is, where it is in its text.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        match self {
            Self::Invalid { position, .. } => Some(*position),
            _ => None,
        }
    }

    /// The key it is about.
    #[must_use]
    pub const fn key(&self) -> Option<&Untrusted> {
        match self {
            Self::Invalid { key, .. } => key.as_ref(),
            _ => None,
        }
    }

    pub(super) fn invalid(path: PathBuf, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        Self::at(path, text, &span, &error.message().replace("unknown field", "unknown key"))
    }

    /// What is wrong with what stands at `span`.
    pub(super) fn at(path: PathBuf, text: &str, span: &Range<usize>, message: &str) -> Self {
        Self::Invalid {
            path,
            position: position(text, span.start),
            key: DeTable::parse(text)
                .ok()
                .and_then(|table| key_at(table.get_ref(), span))
                .map(|key| key.as_str().into()),
            message: lines_joined(message),
        }
    }
}

/// A path as an error shows it: a name may hold anything but a slash.
pub(crate) fn shown(path: &Path) -> Untrusted {
    Untrusted::new(path.as_os_str().as_bytes())
}

/// The parser's messages may have several lines; an error has one.
fn lines_joined(message: &str) -> Untrusted {
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ").as_str().into()
}

fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before.get(start..).unwrap_or_default().chars().count() + 1,
    }
}

/// The innermost key whose name or value is at `span`, with those around it.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    for (key, value) in table.iter() {
        if let Some(found) = inside(value.get_ref(), span) {
            return Some(format!("{}{found}", key.get_ref()));
        }
        let (name, body) = (key.span(), value.span());
        if (name.start..name.end).contains(&span.start) || (body.start..body.end).contains(&span.start) {
            return Some(key.get_ref().to_string());
        }
    }
    None
}

/// The rest of the key where what is at `span` is inside `value`: `.entries`, or `[2].after` in the second of a list.
fn inside(value: &DeValue<'_>, span: &Range<usize>) -> Option<String> {
    match value {
        DeValue::Table(table) => key_at(table, span).map(|found| format!(".{found}")),
        DeValue::Array(list) => {
            // A table that was written `[[so]]` has the span of its head: what is in it may lie behind that.
            let found = list.iter().enumerate().find_map(|(at, item)| {
                inside(item.get_ref(), span).map(|found| format!("[{}]{found}", at + 1))
            });
            found.or_else(|| {
                let holds = |item: &toml::Spanned<DeValue<'_>>| {
                    let body = item.span();
                    matches!(item.get_ref(), DeValue::Table(_)) && body.contains(&span.start)
                };
                list.iter().position(holds).map(|at| format!("[{}]", at + 1))
            })
        }
        _ => None,
    }
}
