//! How many more processes a workload can have, how much of its limits is zombies, when they will be full, and, when a fork is refused,
//! by which limit.
//!
//! Files are read for workloads that have zombies or whose forks were refused, at a pace that is set by how near a limit is; of all
//! others nothing is read. [`Reader`] reads, on a thread of its own; [`Accounts`] knows what was read and says what it means.

mod accounts;
mod attempts;
mod files;
mod forecast;
mod limit;
mod nested;
mod reader;
mod refusal;
mod refusals;
mod unclaimed;

pub use self::{
    accounts::{Accounts, Disagreement, FORGOTTEN},
    attempts::{Attempt, Forker, Found},
    files::{CgroupPath, Files, Level, Node, Nproc},
    forecast::{Forecast, Rate, Series},
    limit::{Headroom, Limit, Use, free},
    nested::{Below, around, is_within, outermost},
    reader::{Ask, Reader, Report, Seen},
    refusal::{Key, Refusal, Source},
    refusals::Sources,
};
