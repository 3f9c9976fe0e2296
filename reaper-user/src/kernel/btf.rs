//! Where a member lies in the running kernel's structures, read from its BTF.
//!
//! A path starts at a tracepoint's argument and follows type ids from there, because a structure's name need not
//! be unique in the BTF. Format: <https://docs.kernel.org/bpf/btf.html>.

use std::collections::HashMap;

use thiserror::Error;

/// Where the kernel shows its BTF.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why a member could not be found.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The bytes are not BTF.
    #[error("not BTF: {0}")]
    Malformed(&'static str),
    /// The kernel has no such tracepoint, or not with BTF.
    #[error("the kernel has no tracepoint {0} with BTF")]
    NoTracepoint(String),
    /// A structure has no such member.
    #[error("{path}: no member `{member}`")]
    NoMember {
        /// The path that was asked for.
        path: String,
        /// The part of it that is missing.
        member: String,
    },
    /// A member is not what the object would read.
    #[error("{path}: expected {expected}, the kernel has {found}")]
    WrongType {
        /// The path that was asked for.
        path: String,
        /// What the object reads.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// What the object reads at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Four bytes: an integer, an enum or a structure around one (`atomic_t`).
    U32,
    /// Eight bytes of integer.
    U64,
    /// A pointer.
    Pointer,
    /// Sixteen characters.
    Name,
}

impl Expect {
    const fn name(self) -> &'static str {
        match self {
            Self::U32 => "four bytes",
            Self::U64 => "eight bytes",
            Self::Pointer => "a pointer",
            Self::Name => "sixteen characters",
        }
    }
}

/// A kernel's BTF, indexed.
pub(super) struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// Byte offset of each type; id 0 is void.
    types: Vec<usize>,
    /// Typedefs of tracepoints (`btf_trace_…`), by name.
    tracepoints: HashMap<&'a [u8], u32>,
}

#[derive(Clone, Copy)]
struct Header {
    name: u32,
    kind: u32,
    vlen: u32,
    flag: bool,
    /// Size, or the id of the type that is meant.
    size_or_type: u32,
    /// Where what follows begins.
    rest: usize,
}

impl<'a> Btf<'a> {
    /// Indexes `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let word = |at: usize| -> Result<usize, BtfError> {
            u32_at(bytes, at).map(|word| word as usize).ok_or(BtfError::Malformed("the header is cut off"))
        };
        if bytes.get(..2) != Some(&[0x9f, 0xeb]) {
            return Err(BtfError::Malformed("the magic number is wrong"));
        }
        let base = word(4)?;
        let (first, length) = (base.saturating_add(word(8)?), word(12)?);
        let strings = base.saturating_add(word(16)?);
        let end = first.saturating_add(length);
        let mut btf = Self { bytes, strings, types: vec![0], tracepoints: HashMap::new() };
        let mut at = first;
        while at < end {
            let header = btf.header_at(at).ok_or(BtfError::Malformed("the types are cut off"))?;
            let id = u32::try_from(btf.types.len()).map_err(|_| BtfError::Malformed("too many types"))?;
            btf.types.push(at);
            if header.kind == KIND_TYPEDEF {
                let name = btf.string(header.name);
                if name.starts_with(b"btf_trace_") {
                    btf.tracepoints.insert(name, id);
                }
            }
            at = header.rest + trailer(header).ok_or(BtfError::Malformed("an unknown kind of type"))?;
        }
        Ok(btf)
    }

    /// Whether the kernel has a function of this name. What helpers are made of is in it under the helper's name.
    pub(super) fn has_function(&self, name: &str) -> bool {
        self.named(KIND_FUNC, name).is_some()
    }

    /// Whether the kernel has a structure of this name.
    pub(super) fn has_structure(&self, name: &str) -> bool {
        self.named(KIND_STRUCT, name).is_some()
    }

    /// How many arguments a function of the kernel takes; `None` where it has none of this name.
    pub(super) fn arguments(&self, function: &str) -> Option<u32> {
        let (_, proto) = self.resolve(self.named(KIND_FUNC, function)?.size_or_type)?;
        Some(proto.vlen)
    }

    fn named(&self, kind: u32, name: &str) -> Option<Header> {
        let mut headers = self.types.iter().skip(1).filter_map(|at| self.header_at(*at));
        headers.find(|header| header.kind == kind && self.string(header.name) == name.as_bytes())
    }

    /// The type of a tracepoint's argument, where it is a pointer to a structure. 0 is the first argument.
    pub(super) fn argument(&self, tracepoint: &str, index: u32) -> Result<u32, BtfError> {
        let missing = || BtfError::NoTracepoint(tracepoint.to_owned());
        let typedef =
            self.tracepoints.get(format!("btf_trace_{tracepoint}").as_bytes()).ok_or_else(missing)?;
        let (_, pointer) = self.resolve(*typedef).ok_or_else(missing)?;
        let (_, proto) = self.resolve(pointer.size_or_type).ok_or_else(missing)?;
        // The first parameter of the typedef is the probe's own data.
        if proto.kind != KIND_FUNC_PROTO || index + 1 >= proto.vlen {
            return Err(missing());
        }
        let parameter = proto.rest + 8 * (index as usize + 1);
        let id = u32_at(self.bytes, parameter + 4).ok_or_else(missing)?;
        let (_, argument) = self.resolve(id).ok_or_else(missing)?;
        if argument.kind == KIND_PTR { Ok(argument.size_or_type) } else { Err(missing()) }
    }

    /// The byte offset of `path` in the structure `root` and the type that a pointer there points to (itself
    /// where it is none). A path is members by dots, `[n]` for an element; anonymous members are looked through.
    pub(super) fn member(&self, root: u32, path: &str, expect: Expect) -> Result<(u32, u32), BtfError> {
        let (mut offset, mut id) = (0, root);
        for part in path.split('.') {
            let (name, element) = match part.split_once('[') {
                Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<u32>().ok()),
                None => (part, None),
            };
            let missing = || BtfError::NoMember { path: path.to_owned(), member: name.to_owned() };
            let (bits, member) = self.find(id, name.as_bytes(), 8).ok_or_else(missing)?;
            if bits % 8 != 0 {
                return Err(self.wrong(path, expect, "a bit field".to_owned()));
            }
            offset += bits / 8;
            id = member;
            if let Some(element) = element {
                let (_, array) = self.resolve(id).ok_or_else(missing)?;
                if array.kind != KIND_ARRAY {
                    return Err(self.wrong(path, expect, "no array".to_owned()));
                }
                id = u32_at(self.bytes, array.rest).ok_or_else(missing)?;
                offset += element * self.size(id).ok_or_else(missing)?;
            }
        }
        let missing = || BtfError::NoMember { path: path.to_owned(), member: path.to_owned() };
        let (id, header) = self.resolve(id).ok_or_else(missing)?;
        let size = self.size(id).ok_or_else(missing)?;
        let fits = match expect {
            Expect::Pointer => header.kind == KIND_PTR,
            Expect::U64 => header.kind == KIND_INT && size == 8,
            Expect::Name => header.kind == KIND_ARRAY && size == 16,
            Expect::U32 => {
                size == 4 && matches!(header.kind, KIND_INT | KIND_ENUM | KIND_STRUCT | KIND_ENUM64)
            }
        };
        if !fits {
            return Err(self.wrong(path, expect, format!("kind {} of {size} bytes", header.kind)));
        }
        Ok((offset, if header.kind == KIND_PTR { header.size_or_type } else { id }))
    }

    /// The value of an enumerator, wherever it is defined.
    #[must_use]
    pub(super) fn enumerator(&self, name: &str) -> Option<u32> {
        for &at in self.types.get(1..)? {
            let header = self.header_at(at)?;
            let step = match header.kind {
                KIND_ENUM => 8,
                KIND_ENUM64 => 12,
                _ => continue,
            };
            for index in 0..header.vlen as usize {
                let entry = header.rest + index * step;
                if self.string(u32_at(self.bytes, entry)?) == name.as_bytes() {
                    return u32_at(self.bytes, entry + 4);
                }
            }
        }
        None
    }

    #[expect(clippy::unused_self, reason = "reads as part of the lookup")]
    fn wrong(&self, path: &str, expect: Expect, found: String) -> BtfError {
        BtfError::WrongType { path: path.to_owned(), expected: expect.name(), found }
    }

    /// Bit offset and type of a member, through anonymous structures and unions `depth` deep.
    fn find(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        let (_, header) = self.resolve(id)?;
        if !matches!(header.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for index in 0..header.vlen as usize {
            let at = header.rest + index * 12;
            let member = u32_at(self.bytes, at)?;
            let kind = u32_at(self.bytes, at + 4)?;
            let position = u32_at(self.bytes, at + 8)?;
            // With the flag set, the upper eight bits are a bit field's width.
            let (bits, width) =
                if header.flag { (position & 0x00ff_ffff, position >> 24) } else { (position, 0) };
            let found = self.string(member);
            if found == name {
                return Some((if width == 0 { bits } else { bits | 1 }, kind));
            }
            if found.is_empty()
                && depth > 0
                && let Some((inner, kind)) = self.find(kind, name, depth - 1)
            {
                return Some((bits + inner, kind));
            }
        }
        None
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<(u32, Header)> {
        for _ in 0..32 {
            let header = self.header_at(*self.types.get(id as usize).filter(|at| **at != 0)?)?;
            match header.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = header.size_or_type;
                }
                _ => return Some((id, header)),
            }
        }
        None
    }

    fn size(&self, id: u32) -> Option<u32> {
        let (_, header) = self.resolve(id)?;
        match header.kind {
            KIND_PTR => Some(8),
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 => Some(header.size_or_type),
            KIND_ARRAY => {
                let (element, number) =
                    (u32_at(self.bytes, header.rest)?, u32_at(self.bytes, header.rest + 8)?);
                self.size(element)?.checked_mul(number)
            }
            _ => None,
        }
    }

    fn header_at(&self, at: usize) -> Option<Header> {
        let info = u32_at(self.bytes, at + 4)?;
        Some(Header {
            name: u32_at(self.bytes, at)?,
            kind: (info >> 24) & 0x1f,
            vlen: info & 0xffff,
            flag: info >> 31 == 1,
            size_or_type: u32_at(self.bytes, at + 8)?,
            rest: at + 12,
        })
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let rest = self.bytes.get(self.strings.saturating_add(offset as usize)..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

/// Bytes behind a type's header.
const fn trailer(header: Header) -> Option<usize> {
    let vlen = header.vlen as usize;
    match header.kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => Some(4),
        KIND_ARRAY => Some(12),
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => Some(vlen * 12),
        KIND_ENUM | KIND_FUNC_PROTO => Some(vlen * 8),
        // Pointer, forward, typedef, the qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => Some(0),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

#[cfg(test)]
#[path = "btf/tests.rs"]
mod tests;
