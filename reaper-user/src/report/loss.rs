//! What can be lost, and what to do about it.

use reaper_ebpf::{counter, meta};
use serde::{Deserialize, Serialize};

/// Something that happened and could not be recorded. Loss is counted, never silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// A death found no room in the ledger.
    DeathLost,
    /// A fork found no room in the ledger.
    ForkUnrecorded,
    /// A living process's entry was given to a dead one.
    LivingDisplaced,
    /// A release could not be announced.
    ReleaseLost,
    /// A release was seen when it happened, but could not be read or announced.
    ReapLost,
    /// What a watched holder asked for by its number could not be kept.
    AwaitedLost,
    /// A new cgroup could not be announced.
    CgroupLost,
    /// The census found a process, or the death of one, that no hook had recorded.
    HookMissed,
    /// A dead process with descendants found no room.
    AncestorLost,
    /// A process forked before it was known whether it is an interpreter.
    ForkEarly,
    /// A stack at a fork found no room.
    StackLost,
    /// A native stack was not copied.
    StackLimited,
    /// An interpreter's stack was not there or could not be read.
    StackMissed,
    /// A stack could not be read.
    StackUnread,
    /// The functions of a native stack could not be looked up.
    StackUnnamed,
    /// A process could not be followed.
    Unfollowed,
    /// A stack was not kept.
    StackDropped,
    /// An executable file was not looked at.
    Unrecognized,
    /// The kernel did not run a program.
    ProgramSkipped,
    /// An entry had no process any more: the kernel's free was not recorded.
    FreeMissed,
    /// The ledger was looked at later than was due.
    SweepLate,
    /// A look at a process hung.
    ObserverHung,
    /// A holder could not be watched.
    HolderUnwatched,
    /// The native stacks of a workload on probation could not be taken.
    WorkloadUncopied,
    /// The forker of a zombie had to give way to newer ones.
    ForkerForgotten,
    /// A workload's names could not be asked for or kept.
    NameForgotten,
    /// A label of a workload could not be kept.
    LabelLost,
    /// A refused fork that the hook saw could not be read, counted or announced.
    RefusalLost,
    /// A cgroup could not be watched for refused forks, or a refusal was not told.
    RefusalUnwatched,
    /// The program that sees refused forks was skipped where a fork returned, refused or, nearly always, not.
    RefusalSkipped,
    /// The limits of a workload could not be read.
    HeadroomUnread,
    /// The ledger and the kernel count other numbers of zombies.
    ZombiesDiffer,
    /// An event was dropped because nobody reads the output.
    EventDropped,
}

/// Who counts a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// The kernel side, in this place of its counters.
    Kernel(u32),
    /// The kernel itself, with each program.
    Programs,
    /// The daemon.
    Here,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::DeathLost,
        Self::ForkUnrecorded,
        Self::LivingDisplaced,
        Self::ReleaseLost,
        Self::ReapLost,
        Self::AwaitedLost,
        Self::CgroupLost,
        Self::HookMissed,
        Self::AncestorLost,
        Self::ForkEarly,
        Self::StackLost,
        Self::StackLimited,
        Self::StackMissed,
        Self::StackUnread,
        Self::StackUnnamed,
        Self::Unfollowed,
        Self::StackDropped,
        Self::Unrecognized,
        Self::ProgramSkipped,
        Self::FreeMissed,
        Self::SweepLate,
        Self::ObserverHung,
        Self::HolderUnwatched,
        Self::WorkloadUncopied,
        Self::ForkerForgotten,
        Self::NameForgotten,
        Self::LabelLost,
        Self::RefusalLost,
        Self::RefusalUnwatched,
        Self::RefusalSkipped,
        Self::HeadroomUnread,
        Self::ZombiesDiffer,
        Self::EventDropped,
    ];

    /// Who counts it.
    #[must_use]
    pub const fn counted(self) -> Counted {
        match self {
            Self::DeathLost => Counted::Kernel(counter::DEATH_LOST),
            Self::ForkUnrecorded => Counted::Kernel(counter::FORK_UNRECORDED),
            Self::LivingDisplaced => Counted::Kernel(counter::LIVING_DISPLACED),
            Self::ReleaseLost => Counted::Kernel(counter::RELEASE_LOST),
            Self::ReapLost => Counted::Kernel(counter::REAP_LOST),
            Self::AwaitedLost => Counted::Kernel(counter::AWAITED_LOST),
            Self::CgroupLost => Counted::Kernel(counter::CGROUP_LOST),
            Self::HookMissed => Counted::Kernel(counter::HOOK_MISSED),
            Self::AncestorLost => Counted::Kernel(counter::ANCESTOR_LOST),
            Self::ForkEarly => Counted::Kernel(counter::FORK_EARLY),
            Self::StackLost => Counted::Kernel(counter::STACK_LOST),
            Self::StackLimited => Counted::Kernel(counter::STACK_LIMITED),
            Self::StackMissed => Counted::Kernel(counter::STACK_MISSED),
            Self::Unfollowed => Counted::Kernel(counter::FOLLOWED_LOST),
            Self::RefusalLost => Counted::Kernel(counter::REFUSED_LOST),
            Self::ProgramSkipped => Counted::Programs,
            Self::StackDropped
            | Self::StackUnread
            | Self::StackUnnamed
            | Self::Unrecognized
            | Self::FreeMissed
            | Self::SweepLate
            | Self::ObserverHung
            | Self::HolderUnwatched
            | Self::WorkloadUncopied
            | Self::ForkerForgotten
            | Self::NameForgotten
            | Self::LabelLost
            | Self::RefusalUnwatched
            | Self::RefusalSkipped
            | Self::HeadroomUnread
            | Self::ZombiesDiffer
            | Self::EventDropped => Counted::Here,
        }
    }

    /// Where it is written down what of it has been reported, as one of [`reaper_ebpf::meta`]; `None` where it is
    /// counted anew by each daemon.
    #[must_use]
    pub const fn said_at(self) -> Option<u32> {
        match self.counted() {
            Counted::Kernel(counter) => Some(meta::SAID + counter),
            Counted::Programs => Some(meta::SKIPPED_SAID),
            Counted::Here => None,
        }
    }

    /// Whether it happens on healthy machines all the time, to stacks only: counted and shown by `reaper check`, and nobody is
    /// told.
    #[must_use]
    pub const fn is_expected(self) -> bool {
        matches!(self, Self::ForkEarly | Self::StackLimited | Self::StackMissed | Self::StackUnread)
    }

    /// Whether the ledger may be wrong after it, so that it is to be compared with the kernel's own list.
    #[must_use]
    pub const fn unsettles(self) -> bool {
        // Where the free of a healthy child was missed, that of a reported zombie may have been.
        matches!(
            self,
            Self::DeathLost
                | Self::LivingDisplaced
                | Self::ReleaseLost
                | Self::ProgramSkipped
                | Self::FreeMissed
                | Self::SweepLate
        )
    }

    /// Whether the daemon puts it right by itself: nobody has to do anything.
    #[must_use]
    pub const fn is_mended(self) -> bool {
        matches!(self, Self::HookMissed | Self::ProgramSkipped | Self::FreeMissed | Self::RefusalSkipped)
    }

    /// Which part of the work it is lost to.
    #[must_use]
    pub const fn stage(self) -> &'static str {
        match self {
            Self::DeathLost
            | Self::ForkUnrecorded
            | Self::LivingDisplaced
            | Self::HookMissed
            | Self::ProgramSkipped
            | Self::FreeMissed
            | Self::SweepLate => "ledger",
            Self::ReleaseLost | Self::ReapLost => "release",
            Self::CgroupLost => "workload",
            Self::AwaitedLost | Self::ObserverHung | Self::HolderUnwatched => "holder",
            Self::AncestorLost
            | Self::ForkEarly
            | Self::StackLost
            | Self::StackLimited
            | Self::StackMissed
            | Self::StackUnread
            | Self::StackUnnamed
            | Self::Unfollowed
            | Self::StackDropped
            | Self::Unrecognized
            | Self::WorkloadUncopied
            | Self::ForkerForgotten => "origin",
            Self::NameForgotten | Self::LabelLost => "names",
            Self::RefusalLost
            | Self::RefusalUnwatched
            | Self::RefusalSkipped
            | Self::HeadroomUnread
            | Self::ZombiesDiffer => "headroom",
            Self::EventDropped => "report",
        }
    }

    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeathLost => "death-lost",
            Self::ForkUnrecorded => "fork-unrecorded",
            Self::LivingDisplaced => "living-displaced",
            Self::ReleaseLost => "release-lost",
            Self::ReapLost => "reap-lost",
            Self::AwaitedLost => "awaited-lost",
            Self::CgroupLost => "cgroup-lost",
            Self::HookMissed => "hook-missed",
            Self::AncestorLost => "ancestor-lost",
            Self::ForkEarly => "fork-early",
            Self::StackLost => "stack-lost",
            Self::StackLimited => "stack-limited",
            Self::StackMissed => "stack-missed",
            Self::StackUnread => "stack-unread",
            Self::StackUnnamed => "stack-unnamed",
            Self::Unfollowed => "unfollowed",
            Self::StackDropped => "stack-dropped",
            Self::Unrecognized => "unrecognized",
            Self::ProgramSkipped => "program-skipped",
            Self::FreeMissed => "free-missed",
            Self::SweepLate => "sweep-late",
            Self::ObserverHung => "observer-hung",
            Self::HolderUnwatched => "holder-unwatched",
            Self::WorkloadUncopied => "workload-uncopied",
            Self::ForkerForgotten => "forker-forgotten",
            Self::NameForgotten => "name-forgotten",
            Self::LabelLost => "label-lost",
            Self::RefusalLost => "refusal-lost",
            Self::RefusalUnwatched => "refusal-unwatched",
            Self::RefusalSkipped => "refusal-skipped",
            Self::HeadroomUnread => "headroom-unread",
            Self::ZombiesDiffer => "zombies-differ",
            Self::EventDropped => "event-dropped",
        }
    }

    /// What it means, and what to do.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::DeathLost => {
                "deaths found no room in the ledger: a zombie among them is not reported until a census finds it; \
                 raise [ledger] entries or overflow and restart, or find what forks so much"
            }
            Self::ForkUnrecorded => {
                "forks found no room in the ledger: their zombies are reported where there is room when they die, \
                 but without parent at fork and forker; raise [ledger] entries or overflow and restart"
            }
            Self::LivingDisplaced => {
                "entries of living processes were given to dead ones because the ledger was full: if those die \
                 unwaited they are reported without parent at fork and forker; raise [ledger] entries or overflow \
                 and restart"
            }
            Self::ReleaseLost => {
                "releases could not be announced because the ring buffer was full: they are found by the next sweep, \
                 late, or not told of where no daemon ran meanwhile; nothing to do unless it goes on, then give the daemon \
                 more CPU"
            }
            Self::ReapLost => {
                "releases were seen when they happened, but could not be read, or not announced because the ring buffer \
                 was full: they are reported without exact time and reaper; if it goes on, give the daemon more CPU"
            }
            Self::AwaitedLost => {
                "what watched holders asked for by number found no room: zombies that were there by then are not reaped \
                 (waits-unclear); nothing to do unless it goes on"
            }
            Self::CgroupLost => {
                "new cgroups could not be announced because the ring buffer was full: zombies of a container that is \
                 removed meanwhile are reported without its id; if it goes on, give the daemon more CPU"
            }
            Self::HookMissed => {
                "a census found processes or deaths that no hook had recorded: their zombies are reported now, \
                 without what only the hook could see; nothing to do"
            }
            Self::AncestorLost => {
                "processes died while they had descendants, and there was no room to keep their names: chains of forkers end \
                 at them; nothing to do unless it goes on, then find out what forks and dies so much"
            }
            Self::ForkEarly => {
                "processes forked before it was known whether they are interpreters: what they forked then is reported \
                 without a line; nothing to do, each file is new only once"
            }
            Self::StackLost => {
                "stacks of interpreters, or executables to be looked at, found no room in the ring buffer: what was forked \
                 there is reported without a line; if it goes on, give the daemon more CPU"
            }
            Self::StackLimited => {
                "processes forked faster than their native stacks are copied (5 a second of one, 20 of all): what was forked \
                 in between is reported without one; nothing to do"
            }
            Self::StackMissed => {
                "interpreters forked while they had no stack, or none that could be read (in a thread of another language, at \
                 their start, swapped out or just being moved by the kernel): what they forked then is reported without a line; nothing to do"
            }
            Self::StackUnread => {
                "stacks were taken and could not be read, most often because the process that forked was gone or ran another \
                 program by then: what was forked there is reported without one; nothing to do"
            }
            Self::StackUnnamed => {
                "the functions of native stacks could not be looked up, because the process that reads files of others was late or \
                 died: they have module and offset only; if it goes on, see the log at level debug"
            }
            Self::Unfollowed => {
                "there were too many interpreters at once: what the newest of them fork is reported without a line; nothing to \
                 do"
            }
            Self::StackDropped => {
                "too many processes whose forks were looked at stood at once, or died since the last look, or their stacks took too \
                 much memory, or one workload had more of that than it may keep others from: the newest are reported without a \
                 line; if it goes on, report zombies at a smaller age"
            }
            Self::Unrecognized => {
                "new executable files, or processes that are linked to libpython, were not looked at, because there were too many in \
                 a short time, they could not be read or made the process that reads them late, or a program answers for their file \
                 system (FUSE): what interpreters among them fork is reported without a line, until they are looked at again or run \
                 again; nothing to do unless it goes on, then see the log"
            }
            Self::ProgramSkipped => {
                "the kernel skipped BPF programs because they were interrupted by themselves: a census puts the \
                 ledger right; nothing to do"
            }
            Self::FreeMissed => {
                "entries had no process any more, the kernel's free was not seen: they were given back; nothing to do"
            }
            Self::SweepLate => {
                "the ledger was looked at more than a second too late, and reports were late by that: give the daemon \
                 more CPU"
            }
            Self::ObserverHung => {
                "a look at a process in /proc hung, because the process is stuck in the kernel: its zombies are reported \
                 without its command line; find out what it waits for"
            }
            Self::HolderUnwatched => {
                "there was no room to watch another holder's wait calls: its zombies are reported without them; \
                 nothing to do"
            }
            Self::WorkloadUncopied => {
                "there was no room to take the native stacks of another workload that leaks: its zombies are reported without \
                 them; see to the workloads that leak already"
            }
            Self::ForkerForgotten => {
                "zombies were forked for another parent than their forker (CLONE_PARENT), and too many others were since then: \
                 they are reported without their forker; report zombies at a smaller age"
            }
            Self::NameForgotten => {
                "too many workloads had zombies at once to ask for the names of all or to keep them: some are reported by their \
                 ids alone until they are asked for again; see to the workloads that leak"
            }
            Self::LabelLost => {
                "workloads have more labels than are kept (64), or longer ones: rules do not see those; make rules match on others"
            }
            Self::RefusalLost => {
                "refused forks could not be read when they were seen, or not counted because those of too many cgroups and users were \
                 refused at once (256), or not announced because the ring buffer was full: some are told of late, or, but for those by \
                 pids.max, not at all; find out what forks so much"
            }
            Self::RefusalUnwatched => {
                "there were too many cgroups to watch all for refused forks (8192, or fs.inotify.max_user_watches), or too many \
                 refusals at once, or an earlier daemon ended before it had told of all: some may not be told of; see `reaper \
                 headroom`"
            }
            Self::RefusalSkipped => {
                "the kernel skipped the program that sees refused forks, because it was interrupted by itself, where forks returned: \
                 nearly all of those were not refused, and what pids.max refuses is told all the same; nothing to do"
            }
            Self::HeadroomUnread => {
                "the limits of workloads were not read in time, or more than 1024 cgroups had zombies at once, or one with zombies is more \
                 than 32 levels deep, of which those between were not read: their headroom is not known, or old; give the daemon more CPU, see to the workloads that leak"
            }
            Self::ZombiesDiffer => {
                "in a cgroup the kernel keeps counting another number of dead tasks than the ledger has zombies: one of the two counts \
                 is wrong; the log names the cgroup; please report it with the kernel's version"
            }
            Self::EventDropped => {
                "releases or losses were not written because nobody read the output in time: read it faster, or \
                 write to a file"
            }
        }
    }
}

// A loss is an index into what is kept by kind.
const _: () = {
    let mut index = 0;
    while index < Loss::ALL.len() {
        assert!(Loss::ALL[index] as usize == index);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_the_one_in_json_and_each_counter_of_the_kernel_side_is_its_own() {
        let of_kernel = |loss: &Loss| matches!(loss.counted(), Counted::Kernel(_));
        let losses = Loss::ALL.into_iter().filter(of_kernel);
        let mut counters: Vec<_> = losses.map(Loss::counted).collect();
        let number = counters.len();
        counters.sort_unstable();
        counters.dedup();
        assert_eq!(counters.len(), number);
        for loss in Loss::ALL {
            assert_eq!(serde_json::to_value(loss).unwrap(), loss.as_str());
        }
    }
}
