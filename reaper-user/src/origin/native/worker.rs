//! Makes stacks of what the kernel side has copied, and looks up the functions of those that somebody needs. In a thread of its
//! own: both wait for the symbolizing process, for seconds where debug information is large or the machine busy, and what is known
//! without it must not wait with them.

use std::{io, os::fd::AsFd as _, thread, time::Instant};

use reaper_ebpf::native::APART;

use super::{Missing, NativeStacks, Registers};
use crate::{
    kernel::{Copied, Natives},
    origin::{
        Stacks,
        stacks::{Unannounced, sleep_until},
        symbols::Symbolizer,
    },
    proc::Proc,
};

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
        let mut unannounced = Unannounced::new(APART, Instant::now());
        loop {
            let fds = [self.copies.as_fd(), self.stacks.bell()];
            if let Err(error) = sleep_until(&fds, unannounced.due()) {
                tracing::error!(%error, "waiting for native stacks; no more are taken");
                return;
            }
            self.unwind(&mut unannounced);
            self.stacks.make_room();
            self.name();
        }
    }

    /// Unwinds what the kernel side has copied.
    fn unwind(&mut self, unannounced: &mut Unannounced) {
        let (mut copied, began) = (Vec::new(), Instant::now());
        self.copies.each(|copy| copied.push(copy));
        unannounced.looked(began, Instant::now(), !copied.is_empty());
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
