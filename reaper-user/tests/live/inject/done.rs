//! What the holder says of a round.

use std::time::Duration;

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As it should.
    Whole,
    /// With EINTR.
    Interrupted,
    /// With another result.
    Other,
}

/// What the holder says of a round.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) end: End,
    /// Between just before and just after the call.
    pub(super) took: Duration,
    /// How long after it was released, or its time was up, the call ended, ns; negative where it was before.
    pub(super) late: i64,
    /// Signals that were handled during it.
    pub(super) handled: u64,
    /// Queued signals that were handled in all, and how many of them were not the next.
    pub(super) queued: u64,
    pub(super) out_of_order: u64,
    /// What an interrupted sleep says is left.
    pub(super) left: Option<Duration>,
    /// All that was not as it was: `NAME:EXPECTED/FOUND`.
    pub(super) differences: Vec<String>,
    /// The whole line.
    pub(super) line: String,
}

impl Done {
    pub(super) fn parse(line: &str) -> Self {
        let (said, differences) = line.split_once(" differs").unwrap_or_else(|| panic!("{line}"));
        let field = |name: &str| {
            let mut words = said.split(' ').filter_map(|word| word.split_once('='));
            words.find_map(|(key, value)| (key == name).then_some(value))
        };
        let number = |name: &str| field(name).unwrap_or("0").parse().unwrap_or_else(|_| panic!("{line}"));
        let words = differences.split_whitespace();
        // What follows the differences of a call that did not end as it should.
        let left = words.clone().find_map(|word| word.strip_prefix("left="));
        Self {
            end: match field("outcome") {
                Some("ok") => End::Whole,
                Some("eintr") => End::Interrupted,
                _ => End::Other,
            },
            took: Duration::from_nanos(number("took")),
            late: field("late").unwrap().parse().unwrap(),
            handled: number("handled"),
            queued: number("queued"),
            out_of_order: number("out-of-order"),
            left: left.map(|left| Duration::from_nanos(left.parse().unwrap())),
            differences: words.filter(|word| !word.starts_with("left=")).map(str::to_owned).collect(),
            line: line.to_owned(),
        }
    }

    /// Whether something of this name is among the differences.
    pub(super) fn names(&self, name: &str) -> bool {
        self.differences.iter().any(|difference| {
            let found = difference.split([':', '+']).next();
            found == Some(name)
        })
    }
}
