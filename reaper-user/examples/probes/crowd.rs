//! Many processes that stand by: a full ledger, a large process table.

use std::thread;

use anyhow::Result;
use serde_json::json;

use crate::{
    say,
    sys::{self, Fork, Pid},
    wait_for_end,
};

pub(crate) fn run(processes: usize) -> Result<()> {
    let mut members: Vec<Pid> = Vec::with_capacity(processes);
    // As many as there is room for: the answer says how many it became.
    for _ in 0..processes {
        match sys::fork() {
            Ok(Fork::Child) => {
                if sys::die_with_parent().is_err() {
                    sys::exit_now(1);
                }
                loop {
                    thread::park();
                }
            }
            Ok(Fork::Parent(pid)) => members.push(pid),
            Err(_) => break,
        }
    }
    say(&json!({ "event": "ready", "processes": members.len() }))?;
    wait_for_end()?;
    for &pid in &members {
        sys::kill(pid, libc::SIGKILL)?;
    }
    for &pid in &members {
        sys::wait_for(pid)?;
    }
    Ok(())
}
