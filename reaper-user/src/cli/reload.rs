//! SIGHUP: the configuration is read again. What can change while the daemon runs does; a wrong file changes nothing.

use std::path::PathBuf;

use super::log::Switch;
use crate::{
    config::{Config, ConfigError, Output, Overrides},
    kernel::{Requirement, Standing, reduced},
    policy::Rule,
};

/// The keys that change at once. Every other one is taken at the next start.
const AT_ONCE: [&str; 9] = [
    "age",
    "log.level",
    "remedy.dry_run",
    "remedy.paused",
    "remedy.per_minute",
    "remedy.per_holder",
    "remedy.grace",
    "remedy.max_pause",
    "rule",
];

/// Where the configuration is from, and what of it runs.
pub(super) struct Reload {
    /// The file; `None` where there is nothing to read again.
    pub(super) file: Option<PathBuf>,
    /// The flags, which still win.
    pub(super) overrides: Overrides,
    pub(super) output: Option<Output>,
    /// What runs.
    pub(super) running: Config,
    pub(super) log: Switch,
}

impl Reload {
    /// Reads the file again and says what it finds. True where what runs is to be told: also where nothing is new, for that
    /// closes circuit breakers.
    pub(super) fn read(&mut self) -> bool {
        let Some(file) = &self.file else {
            tracing::info!("SIGHUP: there is no configuration file to read again (--config)");
            return self.running.rules.iter().any(Rule::acts);
        };
        let found = Config::load_trusted(file);
        self.take(found)
    }

    fn take(&mut self, found: Result<Config, ConfigError>) -> bool {
        let wanted = match found {
            Ok(config) => config.with(&self.overrides, self.output),
            Err(error) => {
                tracing::error!("{error}; nothing has changed: the configuration from before is kept");
                return false;
            }
        };
        let (changed, later): (Vec<_>, Vec<_>) =
            self.running.differences(&wanted).into_iter().partition(|key| AT_ONCE.contains(key));
        if !later.is_empty() {
            tracing::warn!("restart the daemon to change {}: it keeps what it runs with", later.join(", "));
        }
        if wanted.log.level != self.running.log.level {
            self.log.set(wanted.log.level);
        }
        self.running.age = wanted.age;
        self.running.log = wanted.log;
        self.running.remedy = wanted.remedy;
        let acted = self.running.rules.iter().any(Rule::acts);
        self.running.rules = wanted.rules;
        if !acted {
            say_what_is_not_held(&self.running.rules);
        }
        let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
        tracing::info!(%changed, age = %self.running.age, "the configuration has been read again");
        true
    }
}

/// A line for each capability that is not held and that something goes without: for what only remedies need, where there is a rule that
/// does something.
pub(super) fn say_what_is_not_held(rules: &[Rule]) {
    for Requirement { name, purpose, standing, privilege: _ } in reduced(rules.iter().any(Rule::acts)) {
        if let Standing::Reduced(without) = standing {
            tracing::warn!("{name} ({purpose}) is {without}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn running(text: &str, overrides: Overrides) -> Reload {
        let running = parse(text).unwrap().with(&overrides, None);
        Reload { file: None, overrides, output: None, running, log: Switch::default() }
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("f"), text)
    }

    #[test]
    fn what_can_change_at_once_does_and_the_rest_is_kept() {
        let mut reload = running("age = '5s'", Overrides::default());
        let rule = "rule = [{ steps = [{ remedy = 'nudge', after = '1m' }] }]\nremedy.dry_run = true";
        let text = format!("age = '1s'\nlog.level = 'warn'\noutput = 'json'\nledger.entries = 64\n{rule}");
        assert!(reload.take(parse(&text)));
        let mut expected = parse(&format!("age = '1s'\nlog.level = 'warn'\n{rule}")).unwrap();
        assert_eq!(reload.running, expected);
        assert!(reload.take(parse("age = '1s'")));
        (expected.log, expected.remedy, expected.rules) =
            (Config::default().log, Config::default().remedy, Vec::new());
        assert_eq!(reload.running, expected);
    }

    #[test]
    fn a_wrong_file_changes_nothing() {
        let mut reload = running("age = '5s'", Overrides::default());
        let before = reload.running.clone();
        assert!(!reload.take(parse("age = '1s'\nlog.level = 'loud'")));
        assert_eq!(reload.running, before);
    }

    #[test]
    fn a_flag_still_wins() {
        let flags = Overrides { age: Some("7s".parse().unwrap()), ..Overrides::default() };
        let mut reload = running("", flags);
        assert!(reload.take(parse("age = '1s'")));
        assert_eq!(reload.running.age, "7s".parse().unwrap());
    }
}
