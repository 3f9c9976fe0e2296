//! CPython from outside: which version it is and how it lays out what is read of it, where it is in a process, and what its
//! code objects say of themselves.
//!
//! All of it is somebody else's memory and somebody else's files: whatever is there, it ends, and what does not fit together is
//! not known.

mod code;
#[cfg(test)]
mod fuzz_tests;
mod lines;
mod memory;
mod objects;
mod recognize;
mod shape;

pub(super) use self::{
    code::{Codes, Image},
    recognize::{Found, Recognizer, Subject, Unlooked},
};
