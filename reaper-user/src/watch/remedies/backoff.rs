//! When what the hand has refused is tried again: ever more rarely. For most of its reasons a thread of the holder was stopped, and
//! some of them last as long as its program runs.

use std::{collections::HashMap, time::Duration};

use crate::{
    identity::{BootTime, Identity},
    policy::{Act, Refusal, Refused},
};

/// Holders that are remembered with what was refused of them.
const HOLDERS: usize = 16_384;

/// Reasons of the holder's own that should pass, and count as lasting where they do not: not whether a cgroup is frozen, or what is
/// short on the machine.
const PASS: [&str; 5] = ["running", "timed-wait", "uninterruptible", "user-code", "vfork"];

/// They do not pass where they were in the way so often, for so long without a break.
const OFTEN: u32 = 6;
const LONG: Duration = Duration::from_secs(300);

/// Whoever was not tried for so long after it could have been begins anew: nothing stood there meanwhile.
const BREAK: Duration = Duration::from_secs(600);

/// How long until it is tried again: after the first time, and after so many that it has doubled up to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    first: Duration,
    most: Duration,
}

impl Pace {
    const fn of(first: u64, most: u64) -> Self {
        Self { first: Duration::from_secs(first), most: Duration::from_secs(most) }
    }

    fn after(self, times: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(self.most)
    }

    /// By the reason.
    fn for_reason(refusal: &Refusal) -> Self {
        match refusal {
            // Somebody else was at work for a moment, and nobody was touched.
            Refusal::Busy => Self::of(1, 10),
            Refusal::Hand { word, .. } if LASTS.contains(word) => Self::of(60, 3_600),
            // It was in the middle of something, or stopped, or traced.
            _ => Self::of(10, 600),
        }
    }
}

/// Reasons that last as long as the program runs, or until somebody sets up the machine in another way and says so by SIGHUP.
const LASTS: [&str; 12] = [
    "arch-32bit",
    "call-dispatch",
    "matrix-registers",
    "no-instruction",
    "no-room",
    "no-vectors",
    "not-permitted",
    "page-size",
    "seccomp-denied",
    "seccomp-strict",
    "seccomp-unreadable",
    "shadow-stack",
];

/// What was refused of a holder, by one rule, for one remedy: another rule may allow more.
#[derive(Debug)]
struct Tried {
    /// The last time.
    refused: Refused,
    /// Since when, without a break.
    since: BootTime,
    /// How often for each reason: one that alternates between two is not tried more often for that.
    times: HashMap<&'static str, u32>,
}

impl Tried {
    fn is(&self, act: Act) -> bool {
        (self.refused.rule, self.refused.remedy) == (act.rule, act.remedy)
    }
}

/// All that was, by holder.
#[derive(Debug, Default)]
pub(super) struct Backoff(HashMap<Identity, Vec<Tried>>);

impl Backoff {
    /// The hand has refused it. Says whether it will hardly be otherwise when it is tried again.
    pub(super) fn refused(&mut self, act: Act, holder: Identity, refusal: &Refusal, now: BootTime) -> bool {
        if self.0.len() >= HOLDERS {
            // Most of these are gone; whoever is not begins anew.
            self.0.retain(|_, tried| tried.iter().any(|tried| tried.refused.until > now));
        }
        if self.0.len() >= HOLDERS {
            self.0.clear();
        }
        let of_holder = self.0.entry(holder).or_default();
        let place = of_holder.iter().position(|tried| tried.is(act));
        let before = place.map(|place| of_holder.swap_remove(place));
        let before = before.filter(|tried| now <= tried.refused.until.plus(BREAK));
        let (since, mut times) =
            before.map_or_else(|| (now, HashMap::new()), |tried| (tried.since, tried.times));
        let count = times.entry(refusal.as_str()).or_default();
        *count += 1;
        let until = now.plus(Pace::for_reason(refusal).after(*count));
        let is_stuck = *count >= OFTEN && now.since(since) >= LONG;
        let lasts = matches!(
            refusal,
            Refusal::Hand { word, .. } if LASTS.contains(word) || (is_stuck && PASS.contains(word))
        );
        let Act { rule, remedy, .. } = act;
        let refused = Refused { rule, remedy, refusal: refusal.clone(), until, lasts };
        of_holder.push(Tried { refused, since, times });
        lasts
    }

    /// It was done: what has stood in its way is over.
    pub(super) fn done(&mut self, act: Act, holder: Identity) {
        if let Some(tried) = self.0.get_mut(&holder) {
            tried.retain(|tried| !tried.is(act));
            if tried.is_empty() {
                self.0.remove(&holder);
            }
        }
    }

    /// All that is not tried now with a holder.
    pub(super) fn of(&self, holder: Identity, now: BootTime) -> Vec<Refused> {
        self.standing(holder, now).cloned().collect()
    }

    /// Why it is not tried now, and until when.
    pub(super) fn stands_against(
        &self,
        act: Act,
        holder: Identity,
        now: BootTime,
    ) -> Option<(Refusal, BootTime)> {
        let stands = |of: &&Refused| (of.rule, of.remedy) == (act.rule, act.remedy);
        self.standing(holder, now)
            .find(stands)
            .map(|Refused { refusal, until, .. }| (refusal.clone(), *until))
    }

    fn standing(&self, holder: Identity, now: BootTime) -> impl Iterator<Item = &Refused> {
        let tried = self.0.get(&holder).into_iter().flatten().map(|tried| &tried.refused);
        tried.filter(move |refused| refused.until > now)
    }

    /// The machine or the rules may be others now.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remedy::Remedy;

    const HOLDER: Identity = Identity { pid: 7, start: BootTime(1) };
    const REAP: Act = Act { rule: 0, step: 0, remedy: Remedy::Reap };

    fn hand(word: &'static str) -> Refusal {
        Refusal::Hand { word, message: word.to_owned() }
    }

    /// How often one that is tried whenever it may be is tried within a day, each time refused for the next of these reasons.
    fn tries(reasons: &[Refusal]) -> Vec<u64> {
        let (mut backoff, mut now, mut apart) = (Backoff::default(), BootTime(0), Vec::new());
        let day = BootTime(0).plus(Duration::from_secs(24 * 3_600));
        for refusal in reasons.iter().cycle() {
            backoff.refused(REAP, HOLDER, refusal, now);
            let (stands, until) = backoff.stands_against(REAP, HOLDER, now).unwrap();
            assert_eq!(stands, *refusal);
            assert_eq!(backoff.stands_against(REAP, HOLDER, until), None);
            apart.push(until.since(now).as_secs());
            now = until;
            if now > day {
                break;
            }
        }
        apart
    }

    #[test]
    fn what_lasts_is_tried_ever_more_rarely_and_soon_once_an_hour() {
        for word in ["seccomp-denied", "not-permitted", "shadow-stack"] {
            let apart = tries(&[hand(word)]);
            assert_eq!(apart[..7], [60, 120, 240, 480, 960, 1_920, 3_600], "{word}");
            assert!(apart.len() <= 30 && apart[7..].iter().all(|apart| *apart == 3_600), "{word}: {apart:?}");
        }
    }

    #[test]
    fn who_was_only_busy_is_tried_sooner() {
        for word in ["running", "user-code", "vfork", "timed-wait"] {
            assert_eq!(tries(&[hand(word)])[..8], [10, 20, 40, 80, 160, 320, 600, 600], "{word}");
        }
        assert_eq!(tries(&[Refusal::Busy])[..6], [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn reasons_that_take_turns_do_not_begin_anew() {
        let apart = tries(&[hand("running"), hand("seccomp-denied")]);
        assert_eq!(apart[..6], [10, 60, 20, 120, 40, 240]);
    }

    #[test]
    fn it_is_about_one_remedy_of_one_rule_for_one_holder_until_it_was_done() {
        let mut backoff = Backoff::default();
        backoff.refused(REAP, HOLDER, &hand("running"), BootTime(0));
        let other = Identity { start: BootTime(2), ..HOLDER };
        for (act, holder) in [
            (REAP, other),
            (Act { rule: 1, ..REAP }, HOLDER),
            (Act { remedy: Remedy::Nudge, ..REAP }, HOLDER),
        ] {
            assert_eq!(backoff.stands_against(act, holder, BootTime(0)), None);
        }
        backoff.done(REAP, HOLDER);
        assert_eq!(backoff.stands_against(REAP, HOLDER, BootTime(0)), None);
        backoff.refused(REAP, HOLDER, &hand("running"), BootTime(0));
        let (_, until) = backoff.stands_against(REAP, HOLDER, BootTime(0)).unwrap();
        assert_eq!(until, BootTime(0).plus(Duration::from_secs(10)), "as the first time");
    }

    #[test]
    fn what_passes_lasts_when_it_was_in_the_way_for_minutes_and_whoever_is_busy_never_does() {
        let lasting = |refusal: Refusal| {
            let (mut backoff, mut now) = (Backoff::default(), BootTime(0));
            let lasts = (1..=20).map(|_| {
                let lasts = backoff.refused(REAP, HOLDER, &refusal, now);
                let stands = &backoff.of(HOLDER, now)[0];
                assert_eq!(stands.lasts, lasts);
                now = stands.until;
                lasts
            });
            lasts.collect::<Vec<_>>().iter().position(|lasts| *lasts)
        };
        assert_eq!(lasting(hand("seccomp-denied")), Some(0));
        assert_eq!(lasting(hand("running")), Some(5));
        // Of the machine, or of somebody who will undo it.
        for word in ["no-tracer", "no-zombie", "frozen", "out-of-time"] {
            assert_eq!(lasting(hand(word)), None, "{word}");
        }
        assert_eq!(lasting(Refusal::Busy), None);
        assert_eq!(lasting(Refusal::IdentityChanged), None);
    }

    #[test]
    fn whoever_was_busy_once_a_day_is_not_stuck() {
        let mut backoff = Backoff::default();
        for day in 0..20 {
            let now = BootTime(0).plus(Duration::from_secs(day * 24 * 3_600));
            assert!(!backoff.refused(REAP, HOLDER, &hand("running"), now), "day {day}");
            let (_, until) = backoff.stands_against(REAP, HOLDER, now).unwrap();
            assert_eq!(until.since(now).as_secs(), 10, "day {day}");
        }
    }
}
