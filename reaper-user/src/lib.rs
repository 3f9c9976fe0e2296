//! `reaper`: sees every child process that exits and is never waited on, the moment it happens, says whose it
//! is and why it is still there. The binary is this library's command line.
//!
//! Data flows one way: [`kernel`] → [`ledger`] → [`zombie`] → [`workload`] and [`cause`] → [`headroom`] → [`policy`] →
//! [`remedy`] → [`report`].

pub mod cause;
pub mod cli;
pub mod config;
pub mod control;
pub mod exit_code;
pub mod headroom;
pub mod identity;
pub mod kernel;
pub mod kubernetes;
pub mod ledger;
pub mod lock;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod origin;
pub mod policy;
pub mod proc;
pub mod remedy;
pub mod report;
pub mod text;
mod trust;
pub mod watch;
pub mod workload;
pub mod zombie;
