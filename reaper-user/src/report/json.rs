//! JSON: one object a line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use super::event::Event;

/// The version of the objects' shape. It rises when a field changes its meaning or goes away; a new field or a
/// new kind of event does not raise it.
pub const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Deserialize)]
struct Head {
    schema: u32,
}

/// Why a line is not an event.
#[derive(Debug, Error)]
pub enum ParseError {
    /// It is not JSON, or lacks a field.
    #[error("not an event of this reaper: {0}")]
    Json(#[from] serde_json::Error),
    /// It was written by another version.
    #[error(
        "written in schema {0}, and this reaper reads schema {SCHEMA}: use the same version on both sides"
    )]
    Schema(u32),
}

/// The event as one line of JSON, without the line's end.
pub fn to_line(event: &Event) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Line { schema: SCHEMA, event })
}

/// Reads what [`to_line`] has written.
pub fn parse(line: &str) -> Result<Event, ParseError> {
    let Head { schema } = serde_json::from_str(line)?;
    if schema != SCHEMA {
        return Err(ParseError::Schema(schema));
    }
    Ok(serde_json::from_str(line)?)
}

/// RFC 3339 in UTC, to the microsecond.
pub(super) fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

/// An exit status as `{"code": 7, "core": false}` or `{"signal": 9, "core": false}`.
pub(super) mod exit {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::zombie::ExitStatus;

    #[derive(Serialize, Deserialize)]
    struct Shown {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<u8>,
        core: bool,
    }

    pub(in crate::report) fn serialize<S: Serializer>(
        exit: &ExitStatus,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match *exit {
            ExitStatus::Code(code) => Shown { code: Some(code), signal: None, core: false },
            ExitStatus::Signal { number, core } => Shown { code: None, signal: Some(number), core },
        }
        .serialize(serializer)
    }

    pub(in crate::report) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ExitStatus, D::Error> {
        match Shown::deserialize(deserializer)? {
            Shown { code: Some(code), signal: None, core: false } => Ok(ExitStatus::Code(code)),
            Shown { code: None, signal: Some(number), core } => Ok(ExitStatus::Signal { number, core }),
            _ => Err(de::Error::custom("an exit has either a code or a signal")),
        }
    }
}
