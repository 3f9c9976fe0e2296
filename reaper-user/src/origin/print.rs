//! What makes two origins the same, as a number: the same after a restart, on another machine, in another container.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Frame, FrameKind, Origin};
use crate::text::Untrusted;

/// A leak site's number. It tells stacks of one workload apart; whoever controls a workload could make two of its own alike, and
/// would gain nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Print(u64);

/// What a person quotes of it: eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(u32);

impl Print {
    /// Of the origin of a zombie with this name. With a stack, its frames count and nothing else; without one, the names of
    /// all processes from the zombie upwards. Where the stack is only of where something was started that leaks, both: the
    /// names up to whose stack it is, and its frames.
    #[must_use]
    pub fn of(origin: &Origin, zombie: &Untrusted) -> Self {
        let mut hash = Fnv::default();
        if origin.stack.is_none() || origin.only_started() {
            hash.text("chain");
            hash.text(zombie.as_str());
            for link in origin.chain.iter().take(origin.stack_of.unwrap_or(usize::MAX)) {
                hash.text(link.comm.as_str());
            }
        }
        if let Some(stack) = &origin.stack {
            hash.text("stack");
            for frame in &stack.frames {
                add(&mut hash, frame);
            }
        }
        Self(hash.0)
    }

    /// What a person quotes.
    #[must_use]
    pub fn id(self) -> SiteId {
        // The lower half of this hash is the worse one: both count.
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        SiteId(u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h]))
    }
}

/// Machine code is the same where it is at the same place of the same file, whatever its symbols were read as by then.
fn add(hash: &mut Fnv, frame: &Frame) {
    let Frame { function, file, line, module, offset, build_id, kind } = frame;
    let text = |text: &Option<Untrusted>| text.clone().unwrap_or_default();
    match (kind, offset, build_id) {
        // Part of what its symbols say about the frame behind it.
        (FrameKind::Inlined, ..) => {}
        (FrameKind::Native, Some(offset), Some(build_id)) => {
            hash.text(build_id);
            hash.number(*offset);
        }
        (FrameKind::Native, Some(offset), None) => {
            hash.text(text(module).as_str());
            hash.number(*offset);
        }
        _ => {
            hash.text(text(function).as_str());
            hash.text(text(file).as_str());
            hash.number(line.map_or(0, u64::from));
        }
    }
}

/// FNV-1a in 64 bits: `std`'s hashes promise no stable value. <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// With its end, so that no two texts make the same as two others.
    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(&[0xff]);
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for SiteId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u32::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for SiteId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SiteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::origin::fixture;

    fn of(origin: &Origin) -> String {
        Print::of(origin, &"chrome".into()).id().to_string()
    }

    /// Whoever wrote an id down must find it again with the next release.
    #[test]
    fn an_id_stays_what_it_was() {
        assert_eq!(of(&fixture::exact(42)), "c699dddd");
        assert_eq!(of(&fixture::approximate()), "4f6ff979");
        assert_eq!(of(&fixture::lineage_only()), "d7463121");
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Fnv::default();
        assert_eq!(hash.0, 0xcbf2_9ce4_8422_2325);
        hash.bytes(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }

    #[test]
    fn another_line_is_another_site_and_another_process_is_not() {
        assert_ne!(of(&fixture::exact(42)), of(&fixture::exact(58)));
        let mut other = fixture::exact(42);
        for link in &mut other.chain {
            (link.process.pid, link.alive, link.comm) = (link.process.pid + 1, false, "other".into());
        }
        assert_eq!(of(&other), of(&fixture::exact(42)));
        let one = Print::of(&other, &"chrome".into());
        assert_eq!(one, Print::of(&other, &"sh".into()), "the zombie's name");
    }

    #[test]
    fn without_a_stack_the_names_of_the_chain_count() {
        let origin = fixture::lineage_only();
        let one = Print::of(&origin, &"chrome".into());
        assert_ne!(one, Print::of(&origin, &"sh".into()));
        let mut other = origin.clone();
        other.chain[1].comm = "other".into();
        assert_ne!(one, Print::of(&other, &"chrome".into()));
        other = origin;
        other.chain[1].process.pid += 1;
        assert_eq!(one, Print::of(&other, &"chrome".into()));
    }

    /// One line of a supervisor starts programs that have nothing to do with one another.
    #[test]
    fn what_one_line_has_started_is_told_apart_by_its_name() {
        let origin = fixture::started();
        let one = Print::of(&origin, &"true".into());
        assert_ne!(one, Print::of(&fixture::exact(42), &"true".into()));
        assert_ne!(one, Print::of(&origin, &"sh".into()), "the zombie's name");
        let mut other = origin.clone();
        other.chain[0].comm = "node".into();
        assert_ne!(one, Print::of(&other, &"true".into()), "the leaker's name");
        other = origin.clone();
        (other.chain[1].comm, other.chain[2].comm) = ("python".into(), "bash".into());
        assert_eq!(one, Print::of(&other, &"true".into()), "what is above has frames instead");
        let elsewhere = Origin { stack: fixture::exact(58).stack, ..origin };
        assert_ne!(one, Print::of(&elsewhere, &"true".into()));
    }

    #[test]
    fn symbols_that_are_read_later_change_nothing() {
        let mut origin = fixture::approximate();
        let before = of(&origin);
        let frames = &mut Arc::make_mut(origin.stack.as_mut().unwrap()).frames;
        for frame in frames.iter_mut() {
            (frame.function, frame.file, frame.line) = (None, None, None);
        }
        frames.insert(
            1,
            Frame { kind: FrameKind::Inlined, function: Some("small".into()), ..Frame::default() },
        );
        assert_eq!(of(&origin), before);
        Arc::make_mut(origin.stack.as_mut().unwrap()).frames[0].offset = Some(7);
        assert_ne!(of(&origin), before);
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id: SiteId = "0a1b2c3d".parse().unwrap();
        assert_eq!(
            (id.to_string().as_str(), serde_json::to_value(id).unwrap()),
            ("0a1b2c3d", "0a1b2c3d".into())
        );
        assert!("xyz".parse::<SiteId>().is_err());
    }
}
