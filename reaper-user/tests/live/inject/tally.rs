//! What the rounds of one cell came to, as a line of the table.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{done::End, hand::Came, round::Verdict};

/// The rounds of one cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// What was tried.
    pub(super) cell: String,
    /// Rounds in which the call was on when it was done.
    pub(super) rounds: usize,
    /// Rounds in which it was over too soon: nothing was tried.
    pub(super) missed: usize,
    /// Rounds in which the holder was made to wait for all of its zombies.
    pub(super) reaped: usize,
    /// How many zombies those were.
    pub(super) zombies: usize,
    /// Rounds in which it was not, by the word for why.
    pub(super) refused: BTreeMap<String, usize>,
    /// Calls that ended with EINTR, with no signal having been sent.
    pub(super) interrupted: usize,
    /// Calls that ended with EINTR when their time was up.
    pub(super) expired: usize,
    /// Calls that ended late.
    pub(super) late: usize,
    /// Signals that met the thread while it was traced.
    pub(super) traced: usize,
    /// Signals that came before the call.
    pub(super) unheeded: usize,
    /// Chains that were left by themselves.
    pub(super) fell_through: u32,
    /// All that was wrong.
    pub(super) faults: Vec<String>,
    pauses: Vec<Duration>,
}

impl Tally {
    /// One without rounds.
    pub(super) fn new(cell: impl Into<String>) -> Self {
        Self { cell: cell.into(), ..Self::default() }
    }

    /// Adds a round in which so many zombies were to be waited for. `standing` of them stand afterwards.
    pub(super) fn add(
        &mut self,
        verdict: Verdict,
        came: &Came,
        zombies: usize,
        standing: usize,
        signalled: bool,
    ) {
        let Verdict { done, faults, late, unheeded, inside, traced, expired } = verdict;
        self.faults.extend(faults);
        if zombies != standing + came.reaped {
            self.faults.push(format!("{standing} of {zombies} stand, though {came:?}"));
        }
        if expired && came.interrupted == 0 {
            self.faults.push(format!("EINTR, and nobody says so: {} {came:?}", done.line));
        }
        self.expired += usize::from(expired);
        self.late += usize::from(late);
        self.unheeded += usize::from(unheeded);
        self.traced += usize::from(traced);
        self.fell_through += came.fell_through;
        self.pauses.extend(&came.pauses);
        if !inside {
            self.missed += 1;
            return;
        }
        self.rounds += 1;
        self.interrupted += usize::from(done.end == End::Interrupted && !signalled);
        match &came.refusal {
            Some(word) => *self.refused.entry(word.clone()).or_default() += 1,
            None => self.reaped += usize::from(came.reaped == zombies),
        }
        self.zombies += came.reaped;
    }

    /// The middle one of all pauses, and the longest.
    fn pause(&self) -> (Duration, Duration) {
        let mut pauses = self.pauses.clone();
        pauses.sort_unstable();
        (
            pauses.get(pauses.len() / 2).copied().unwrap_or_default(),
            pauses.last().copied().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (middle, longest) = self.pause();
        write!(
            f,
            "{:<44} {:>4} rounds {:>4} reaped {:>4} EINTR {:>3} late {:>4}/{:<3} signals {:>6}/{:<6} us",
            self.cell,
            self.rounds,
            self.reaped,
            self.interrupted,
            self.late,
            self.traced,
            self.unheeded,
            middle.as_micros(),
            longest.as_micros(),
        )?;
        for (word, count) in &self.refused {
            write!(f, " {word} {count}")?;
        }
        if self.missed > 0 {
            write!(f, " missed {}", self.missed)?;
        }
        if self.expired > 0 {
            write!(f, " expired {}", self.expired)?;
        }
        if self.fell_through > 0 {
            write!(f, " fell through {}", self.fell_through)?;
        }
        if !self.faults.is_empty() {
            write!(f, " WRONG {}", self.faults.len())?;
        }
        Ok(())
    }
}

/// Prints the table; panics with what was wrong.
pub(super) fn report(tallies: &[Tally]) {
    println!("signals: those that met a traced thread / those that came before the call");
    for tally in tallies {
        println!("{tally}");
    }
    let faults: Vec<_> = tallies
        .iter()
        .flat_map(|tally| tally.faults.iter().take(3).map(|fault| format!("{}: {fault}", tally.cell)))
        .collect();
    assert!(faults.is_empty(), "{} cells are wrong:\n{}", faults.len(), faults.join("\n"));
    let sum = |count: fn(&Tally) -> usize| tallies.iter().map(count).sum::<usize>();
    let (rounds, unheeded) = (sum(|tally| tally.rounds), sum(|tally| tally.unheeded));
    let expired = sum(|tally| tally.expired);
    // A signal that comes between the end of a stop and the call's being made again is handled before it: any stop has this moment.
    assert!(unheeded <= rounds / 100 + 2, "{unheeded} of {rounds} signals did not interrupt their call");
    assert!(
        expired <= rounds / 100 + 2,
        "{expired} of {rounds} calls were interrupted when their time was up"
    );
    for tally in tallies {
        assert!(tally.late <= tally.rounds / 5 + 1, "often late: {tally}");
        assert!(tally.missed <= tally.rounds * 2 + 10, "hardly ever in time: {tally}");
    }
}
