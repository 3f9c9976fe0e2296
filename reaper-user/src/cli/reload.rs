//! SIGHUP: the configuration is read again. What can change while the daemon runs does; a wrong file changes nothing.

use std::path::PathBuf;

use super::log::Switch;
use crate::config::{Age, Config, ConfigError, Output, Overrides};

/// The keys that change at once. Every other one is taken at the next start.
const AT_ONCE: [&str; 2] = ["age", "log.level"];

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
    /// Reads the file again and says what it finds. Returns the age to report at from now on, where that is another.
    pub(super) fn read(&mut self) -> Option<Age> {
        let Some(file) = &self.file else {
            tracing::info!("SIGHUP: there is no configuration file to read again (--config)");
            return None;
        };
        let found = Config::load_trusted(file);
        self.take(found)
    }

    fn take(&mut self, found: Result<Config, ConfigError>) -> Option<Age> {
        let wanted = match found {
            Ok(config) => config.with(&self.overrides, self.output),
            Err(error) => {
                tracing::error!("{error}; nothing has changed: the configuration from before is kept");
                return None;
            }
        };
        let (changed, later): (Vec<_>, Vec<_>) =
            self.running.differences(&wanted).into_iter().partition(|key| AT_ONCE.contains(key));
        if !later.is_empty() {
            tracing::warn!("restart the daemon to change {}: it keeps what it runs with", later.join(", "));
        }
        let age = (wanted.age != self.running.age).then_some(wanted.age);
        if wanted.log.level != self.running.log.level {
            self.log.set(wanted.log.level);
        }
        self.running.age = wanted.age;
        self.running.log = wanted.log;
        let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
        tracing::info!(%changed, age = %self.running.age, "the configuration has been read again");
        age
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
        let age = reload.take(parse("age = '1s'\nlog.level = 'warn'\noutput = 'json'\nledger.entries = 64"));
        assert_eq!(age, Some("1s".parse().unwrap()));
        let mut expected = parse("age = '1s'\nlog.level = 'warn'").unwrap();
        assert_eq!(reload.running, expected);
        assert_eq!(reload.take(parse("age = '1s'")), None, "the same age is no news");
        expected.log = Config::default().log;
        assert_eq!(reload.running, expected);
    }

    #[test]
    fn a_wrong_file_changes_nothing() {
        let mut reload = running("age = '5s'", Overrides::default());
        let before = reload.running.clone();
        assert_eq!(reload.take(parse("age = '1s'\nlog.level = 'loud'")), None);
        assert_eq!(reload.running, before);
    }

    #[test]
    fn a_flag_still_wins() {
        let flags = Overrides { age: Some("7s".parse().unwrap()), ..Overrides::default() };
        let mut reload = running("", flags);
        assert_eq!(reload.take(parse("age = '1s'")), None);
    }
}
