//! What of a holder decides whether it may be touched.

use super::Protected;
use crate::{identity::Identity, names::Namer, text::Untrusted, workload::Workload};

/// The environment variable by which a workload opts out, with the value `off`.
pub const OPT_OUT: &str = "REAPER_REMEDIES";

/// A holder, as it was looked at for a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who it is; `None` where it is gone, or was replaced meanwhile.
    pub identity: Option<Identity>,
    /// The path of its executable, as its own mount namespace names it.
    pub executable: Option<Untrusted>,
    /// Its user id.
    pub uid: Option<u32>,
    /// Whether SIGCHLD is of use to it.
    pub heeds: Heeds,
    /// Whether its environment says that it is to be left alone.
    pub opt_out: OptOut,
    /// The workload that it is of; `None` where that could not be read.
    pub workload: Option<Workload>,
    /// Whether a label of that, or of the pod around it, says that it is to be left alone; `None` where that is not known yet.
    pub opts_out: Option<bool>,
    /// It is the first process of a container.
    pub container_init: bool,
    /// Why it is never touched, if so.
    pub protected: Option<Protected>,
}

impl Holder {
    /// Has what its workload is called asked for, and takes what is known of that by now.
    pub fn name(&mut self, names: &Namer) {
        self.opts_out = self.workload.as_ref().map_or(Some(false), |workload| names.opts_out(workload));
    }
}

/// What a process makes of SIGCHLD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heeds {
    /// It has a handler.
    Handler,
    /// It reads it from a signalfd.
    Signalfd,
    /// A thread of it waits for signals (`sigwait`), and SIGCHLD is not ignored.
    Sigwait,
    /// Nothing.
    No,
}

/// What a holder's environment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptOut {
    /// Nothing, or something else.
    No,
    /// That it is to be left alone.
    Yes,
    /// It could not be read, or not to its end.
    Unknown,
}
