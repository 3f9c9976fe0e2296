//! Files that keep the symbolizing process busy until it is given up, or kill it: each costs everybody that once, not each time
//! somebody executes it.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{files::FileKey, symbols::Unanswered};

/// How long they are not asked about at first: it may have been the machine that was slow, and what is not known meanwhile leaks
/// without a line. Each time it is twice as long,
pub(in crate::origin) const PUT_OFF: Duration = Duration::from_secs(5);

/// up to this.
pub(in crate::origin) const LONGEST: Duration = Duration::from_hours(1);

/// Files that are remembered, of each kind.
const FILES: usize = 8_192;

/// What is known of files from how questions about them ended.
#[derive(Debug, Default)]
pub(in crate::origin) struct Suspects {
    /// In a question that was answered.
    good: HashSet<FileKey>,
    /// In none that was, and in one that was not: until when it is put off, and for how long.
    bad: HashMap<FileKey, (Instant, Duration)>,
}

impl Suspects {
    /// Whether to ask about these together. Not where none of them was ever of use but those that have done harm.
    pub(in crate::origin) fn may_ask(&self, files: &[FileKey], now: Instant) -> bool {
        let mut doubtful = files.iter().filter(|file| !self.good.contains(file)).peekable();
        doubtful.peek().is_none() || doubtful.any(|file| self.put_off(file).is_none_or(|until| until <= now))
    }

    /// Until when a file is put off, or was.
    pub(in crate::origin) fn put_off(&self, file: &FileKey) -> Option<Instant> {
        self.bad.get(file).map(|(until, _)| *until)
    }

    /// Takes down how a question about these ended. True where it did harm.
    pub(in crate::origin) fn learn<T>(
        &mut self,
        files: &[FileKey],
        answer: &Result<T, Unanswered>,
        now: Instant,
    ) -> bool {
        match answer {
            Ok(_) => {
                for file in files {
                    self.bad.remove(file);
                }
                if self.good.len() + files.len() > FILES {
                    self.good.clear();
                }
                self.good.extend(files);
                false
            }
            Err(Unanswered::Late | Unanswered::Died(_)) => {
                if self.bad.len() + files.len() > FILES {
                    self.bad.clear();
                }
                for file in files.iter().filter(|file| !self.good.contains(file)) {
                    let before = self.bad.get(file).map(|(_, before)| *before);
                    let long = before.map_or(PUT_OFF, |before| (before * 2).min(LONGEST));
                    self.bad.insert(*file, (now + long, long));
                }
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Result<(), Unanswered> = Err(Unanswered::Late);

    #[test]
    fn a_file_that_does_harm_is_asked_about_ever_more_rarely() {
        let (mut suspects, mut now) = (Suspects::default(), Instant::now());
        let [hostile, other] = [1, 2].map(FileKey::fixture);
        assert!(suspects.may_ask(&[hostile], now));
        assert!(suspects.learn(&[hostile], &LATE, now));
        assert!(!suspects.may_ask(&[hostile], now) && suspects.may_ask(&[other], now));
        assert!(!suspects.may_ask(&[hostile], now + PUT_OFF / 2));
        assert!(suspects.may_ask(&[hostile], now + PUT_OFF));
        let mut apart = Vec::new();
        for _ in 0..12 {
            let until = suspects.put_off(&hostile).unwrap();
            apart.push((until - now).as_secs());
            assert!(!suspects.may_ask(&[hostile], until - Duration::from_millis(1)));
            now = until;
            assert!(suspects.may_ask(&[hostile], now));
            suspects.learn(&[hostile], &LATE, now);
        }
        assert_eq!(apart, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        // What was answered in the end was slow, and is forgiven.
        suspects.learn(&[hostile], &Ok(()), now);
        assert!(suspects.put_off(&hostile).is_none() && suspects.may_ask(&[hostile], now));
    }

    #[test]
    fn a_library_does_not_suffer_for_the_program_that_has_it() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let [hostile, library, honest] = [1, 2, 3].map(FileKey::fixture);
        // Nothing is known of the library yet.
        assert!(suspects.learn(&[hostile, library], &LATE, now));
        assert!(!suspects.may_ask(&[hostile, library], now));
        assert!(suspects.may_ask(&[honest, library], now));
        assert!(!suspects.learn(&[honest, library], &Ok(()), now));
        assert!(suspects.may_ask(&[library], now) && !suspects.may_ask(&[hostile, library], now));
        // Nor for the next one.
        let next = FileKey::fixture(4);
        suspects.learn(&[next, library], &LATE, now);
        assert!(!suspects.may_ask(&[next, library], now) && suspects.may_ask(&[library], now));
    }

    #[test]
    fn what_is_not_a_files_fault_is_not_held_against_it() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let file = FileKey::fixture(1);
        assert!(!suspects.learn(&[file], &Err::<(), _>(Unanswered::Paused), now));
        assert!(suspects.may_ask(&[file], now));
    }
}
