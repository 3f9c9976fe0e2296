//! Native stacks of real programs, stopped at their forks: that the function that forks is in the stack, by its name and line,
//! or where the program has neither, by its module and offset. What is true is said by the programs' sources and by `nm`. And
//! that the process which reads their files can do nothing else.
//!
//! They need root, as the daemon does, and no kernel programs.

#[cfg(test)]
mod build;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod process;
#[cfg(test)]
mod tracee;
