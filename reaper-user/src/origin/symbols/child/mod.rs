//! The symbolizing process: reaper, started anew with [`ARGUMENT`], without privileges, at the other end of a socket. Only here
//! are files parsed that belong to others. What it is sent may kill it, or keep it busy until it is killed; it may not do
//! anything else.

mod call;
mod cpython;
mod dwarf;
mod elf;
mod files;
mod filter;
mod go;
mod mapped;
mod names;
mod perf_map;
mod rows;
mod sandbox;
mod symbols;
mod tables;
mod unwind;

#[cfg(test)]
mod fuzz_tests;

use std::{fs::File, io, os::fd::OwnedFd, process::ExitCode};

use rustix::time::{ClockId, clock_gettime};

use self::{
    files::{Files, Module},
    unwind::Stack,
};
use super::{
    channel,
    message::{
        ADDRESSES, Answer, Cpython, FRAMES, Function, PACKET, Place, Request, STACK, Unreadable, pack, unpack,
    },
};

/// The hidden first argument.
pub const ARGUMENT: &str = "symbolize-for-reaper";

/// Bytes of names in an answer; where there are more, the rest has none.
const NAMES: usize = PACKET / 2;

/// Seconds of processor time after which another process takes this one's place, well before it may have no more.
const TIRED: i64 = 30;

/// Answers requests until nobody asks any more.
#[must_use]
pub fn main() -> ExitCode {
    let socket = io::stdin();
    // How to ask for it is found out by calls that are not allowed later.
    let _none = seconds();
    // Nothing is read before the last privilege is gone.
    if sandbox::enter().is_err() {
        return ExitCode::FAILURE;
    }
    let mut room = vec![0; PACKET];
    let mut files = Files::default();
    loop {
        let Ok(received) = channel::receive(&socket, &mut room) else { return ExitCode::FAILURE };
        let Some((packet, descriptors)) = received else { return ExitCode::SUCCESS };
        let answer = match unpack::<Request>(packet) {
            Ok((request, stack)) => answer(&request, stack, descriptors, &mut files),
            Err(error) => Answer::Refused(error.to_string()),
        };
        let packet = match pack(&answer, &[]) {
            Err(Unreadable::TooLarge(_)) => pack(&Answer::Refused("too long an answer".to_owned()), &[]),
            packet => packet,
        };
        let Ok(packet) = packet else { return ExitCode::FAILURE };
        if channel::send(&socket, &packet, &[]).is_err() {
            return ExitCode::FAILURE;
        }
        if files.are_many() || seconds() > TIRED {
            return ExitCode::SUCCESS;
        }
    }
}

/// Processor time that this process has taken.
fn seconds() -> i64 {
    clock_gettime(ClockId::ProcessCPUTime).tv_sec
}

fn answer(request: &Request, stack: &[u8], descriptors: Vec<OwnedFd>, files: &mut Files) -> Answer {
    match request {
        Request::Unwind { registers, spans } => {
            let modules = files.of(&descriptors);
            let stack = stack.get(..STACK).unwrap_or(stack);
            let mut unwound = Stack::new(registers, spans, &modules, stack).unwind(registers);
            unwound.build_ids = modules
                .iter()
                .map(|module| module.as_ref().and_then(|module| module.build_id.clone()))
                .collect();
            Answer::Unwound(unwound)
        }
        Request::Symbolize { addresses, debug } if addresses.len() <= ADDRESSES => {
            let modules = files.of(&descriptors);
            let module = |file: u16| modules.get(usize::from(file))?.as_deref();
            let mut left = NAMES;
            let names = addresses.iter().map(|place| {
                let of = debug.iter().find(|(file, _)| *file == place.file);
                let functions =
                    functions(module(place.file), of.and_then(|(_, debug)| module(*debug)), place);
                let size = functions.iter().map(size).sum();
                match left.checked_sub(size) {
                    Some(rest) => {
                        left = rest;
                        functions
                    }
                    None => Vec::new(),
                }
            });
            Answer::Symbolized(names.collect())
        }
        Request::Cpython => Answer::Cpython(cpython(files, &descriptors)),
        Request::PerfMap { addresses } if addresses.len() <= FRAMES => match descriptors.into_iter().next() {
            Some(file) => Answer::PerfMap(perf_map::names(File::from(file), addresses)),
            None => Answer::Refused("no file".to_owned()),
        },
        Request::Symbolize { .. } | Request::PerfMap { .. } => {
            Answer::Refused("too many addresses".to_owned())
        }
    }
}

/// What the first file has of CPython. What is no ELF file of this machine, or not a well-formed one, has nothing.
fn cpython(files: &mut Files, descriptors: &[OwnedFd]) -> Cpython {
    let file = files.of(descriptors).into_iter().next().flatten();
    file.map_or(Cpython::Other, |file| cpython::find(&file.elf))
}

/// The same in this process, for tests of who asks.
#[cfg(test)]
pub(in crate::origin) fn look_here(file: OwnedFd) -> Cpython {
    cpython(&mut Files::default(), &[file])
}

/// What a function takes of an answer, with what escaping can make of it.
fn size(function: &Function) -> usize {
    64 + 2 * [&function.name, &function.file].into_iter().flatten().map(String::len).sum::<usize>()
}

/// The functions at an address, from whatever of the file or of its debug file knows most.
fn functions(module: Option<&Module>, debug: Option<&Module>, place: &Place) -> Vec<Function> {
    let Some(module) = module else { return Vec::new() };
    // Of another build it would name wrong lines.
    let debug = debug.filter(|debug| debug.build_id.is_some() && debug.build_id == module.build_id);
    let all = || [Some(module), debug].into_iter().flatten();
    let linked = || all().find_map(|module| module.symbols().at(place.address)).map(names::demangled);
    let mut functions = all()
        .filter_map(Module::lines)
        .map(|lines| lines.at(place.address))
        .find(|functions| !functions.is_empty())
        .unwrap_or_default();
    if functions.is_empty() {
        functions = module.go().map(|table| table.at(place.address)).unwrap_or_default();
    }
    match functions.last_mut() {
        Some(outermost) if outermost.name.is_none() => outermost.name = linked(),
        Some(_) => {}
        None => functions.extend(linked().map(|name| Function { name: Some(name), ..Function::default() })),
    }
    functions
}
