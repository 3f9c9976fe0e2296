//! Tests of the `reaper` binary on the kernel that runs: it watches real processes, and what it says is held
//! against what the workloads, /proc, strace and bpftool say.
//!
//! `cargo xtask test live` runs them: as root, one at a time, because each watches the whole machine.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod churn;
#[cfg(test)]
mod control;
#[cfg(test)]
mod faults;
#[cfg(test)]
#[path = "../vm/fentry.rs"]
mod fentry;
#[cfg(test)]
mod headroom;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod idle;
// Its programs are for this architecture: what they load is in its registers.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod inject;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod ls;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod names;
#[cfg(test)]
mod no_scan;
#[cfg(test)]
mod origin;
#[cfg(test)]
mod overflow;
#[cfg(test)]
mod privilege;
#[cfg(test)]
mod probation;
#[cfg(test)]
mod reaped;
#[cfg(test)]
mod release;
#[cfg(test)]
mod remedy;
#[cfg(test)]
mod seed;
#[cfg(test)]
mod soak;
mod standing;
#[cfg(test)]
mod support;
#[cfg(test)]
mod top;
#[cfg(test)]
mod upgrade;
