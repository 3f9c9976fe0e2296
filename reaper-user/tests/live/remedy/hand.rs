//! By hand: `reaper reap`.
