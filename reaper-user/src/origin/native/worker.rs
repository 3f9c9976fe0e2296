//! Makes stacks of what the kernel side has copied, and looks up the functions of those that somebody needs. In a thread of its
//! own: both wait for the symbolizing process, for seconds where debug information is large or the machine busy, and what is known
//! without it must not wait with them.

use std::{io, os::fd::AsFd as _, thread, time::Duration};

use reaper_ebpf::interpreter;

use super::{Missing, NativeStacks, Registers};
use crate::{
    kernel::{Copied, Natives},
    origin::{Stacks, stacks::sleep, symbols::Symbolizer},
    proc::Proc,
};

/// The kernel side wakes nobody sooner than this after the last time: what came meanwhile is looked for after so long.
const APART: Duration = Duration::from_nanos(interpreter::STACKS_APART);

/// Starts the thread. It ends with this process.
pub(in crate::origin) fn start(copies: Natives, proc: Proc, stacks: Stacks) -> io::Result<()> {
    let unwinder = NativeStacks::new(proc, Symbolizer::of_this_program());
    let mut worker = Worker { copies, unwinder, stacks };
    thread::Builder::new().name("natives".to_owned()).spawn(move || worker.run())?;
    Ok(())
}

struct Worker {
    copies: Natives,
    unwinder: NativeStacks,
    stacks: Stacks,
}

impl Worker {
    fn run(&mut self) {
        let mut more = None;
        loop {
            if let Err(error) = sleep(&[self.copies.as_fd(), self.stacks.bell()], more) {
                tracing::error!(%error, "waiting for native stacks; no more are taken");
                return;
            }
            more = self.unwind().then_some(APART);
            self.stacks.make_room();
            self.name();
        }
    }

    /// Unwinds what the kernel side has copied. False where that was nothing.
    fn unwind(&mut self) -> bool {
        let mut copied = Vec::new();
        self.copies.each(|copy| copied.push(copy));
        for Copied { child, forker, group, registers, stack } in &copied {
            let Some(registers) = Registers::from_pt_regs(registers) else {
                // Of a 32-bit program.
                self.stacks.count_unread();
                continue;
            };
            match self.unwinder.unwind(forker, &registers, stack) {
                Ok(found) => self.stacks.store().put_native(*child, *group, found),
                Err(error) => {
                    self.stacks.count_unread();
                    match &error {
                        Missing::NotPermitted(pid) => self.stacks.tell_not_permitted(*pid),
                        Missing::Unopened(pid, why) => self.stacks.tell_unopened(*pid, why),
                        _ => {}
                    }
                    tracing::debug!(%forker, %error, "a native stack could not be read");
                }
            }
        }
        !copied.is_empty()
    }

    /// Looks up the functions of the stacks that somebody needs.
    fn name(&mut self) {
        for child in self.stacks.wanted() {
            let unnamed = self.stacks.store().unnamed(child);
            if let Some(native) = unnamed {
                let (stack, asked) = self.unwinder.name(&native);
                if !asked {
                    self.stacks.count_unnamed();
                }
                self.stacks.store().name(child, stack, native.quality);
                self.stacks.tell();
            }
        }
    }
}
