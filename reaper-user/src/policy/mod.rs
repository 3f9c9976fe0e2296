//! Which remedy is applied to which zombie, and when: rules, safety, limits and the circuit breaker. Nothing here reads
//! or acts: it is told what was seen and says what is to be done, or why not.

mod pattern;
mod rule;

pub use self::{
    pattern::{Pattern, PatternError},
    rule::{Match, Rule, Step},
};
