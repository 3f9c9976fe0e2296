//! Which remedy is applied to which zombie, and when: rules, safety, limits and the circuit breaker. Nothing here reads
//! or acts: it is told what was seen and says what is to be done, or why not.

mod breaker;
mod decide;
mod limits;
mod pattern;
mod refusal;
mod rule;
mod safety;

pub use self::{
    breaker::{Opened, Trip},
    decide::{Act, Choice, Decision, Policy, Progress, Terms},
    pattern::{Pattern, PatternError},
    refusal::{Limit, Refusal, Scope},
    rule::{Fit, Match, Percent, Rule, Step, Subject},
    safety::{Case, LONG_PAST, ReapTimes, Refused, Waited, allows},
};

#[cfg(test)]
mod tests;
