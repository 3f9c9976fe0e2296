//! Text that somebody else wrote: names of processes, command lines, cgroup names. A container controls all of
//! it, and it ends on terminals, in logs and in JSON. So it is escaped once, here, when it comes in.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text from outside, with everything escaped that could act on a terminal or change the order of what is read:
/// control bytes, bidirectional and invisible characters, invalid UTF-8 and the backslash that marks an escape.
/// Clones share the text: a holder's command line stands in many zombies.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Untrusted(Arc<str>);

impl Untrusted {
    /// Escapes `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut out = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                push(&mut out, character);
            }
            for byte in chunk.invalid() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
        Self(out.into())
    }

    /// Takes text that this type has written once: its escapes stay as they are, and what should have been
    /// escaped and is not, is escaped now.
    #[must_use]
    pub fn from_escaped(text: &str) -> Self {
        let mut out = String::with_capacity(text.len());
        for character in text.chars() {
            if character == '\\' { out.push(character) } else { push(&mut out, character) }
        }
        Self(out.into())
    }

    /// The escaped text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn push(out: &mut String, character: char) {
    match character {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        '\0'..='\x7f' if character.is_ascii_control() => {
            out.push_str(&format!("\\x{:02x}", u32::from(character)));
        }
        _ if character.is_control() || is_invisible(character) => {
            out.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
        }
        _ => out.push(character),
    }
}

/// Characters that reorder or hide what stands beside them: the bidirectional controls of UAX #9, zero-width
/// characters, the line and paragraph separators, interlinear annotations, tags and the soft hyphen.
const fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for Untrusted {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl Serialize for Untrusted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Untrusted {
    /// By [`Untrusted::from_escaped`]: what is read is what was written.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::from_escaped(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sequence_is_shown_not_obeyed() {
        assert_eq!(Untrusted::new(b"\x1b[2Jls\x07").as_str(), r"\x1b[2Jls\x07");
    }

    #[test]
    fn bidirectional_overrides_are_shown() {
        assert_eq!(Untrusted::from("a\u{202e}b\u{2066}c").as_str(), r"a\u{202e}b\u{2066}c");
    }

    #[test]
    fn bytes_that_are_not_text_are_kept_readable_and_unambiguous() {
        assert_eq!(Untrusted::new(b"a\xff\\xff").as_str(), r"a\xff\\xff");
    }

    #[test]
    fn c1_controls_are_escaped_and_other_languages_are_not() {
        assert_eq!(Untrusted::from("进程\u{9b}1m é").as_str(), r"进程\u{9b}1m é");
    }

    #[test]
    fn clones_share_the_text() {
        let text = Untrusted::from("/usr/bin/python3 -c x");
        assert!(std::ptr::eq(text.clone().as_str(), text.as_str()));
        assert_eq!(serde_json::to_value(&text).unwrap(), text.as_str());
    }

    #[test]
    fn escaped_text_reads_back_unchanged_and_raw_text_does_not_pass() {
        let once = Untrusted::new(b"\x1b[2J\\n\xff");
        assert_eq!(Untrusted::from_escaped(once.as_str()), once);
        assert_eq!(Untrusted::from_escaped("\x1b[2J\u{202e}").as_str(), r"\x1b[2J\u{202e}");
    }
}
