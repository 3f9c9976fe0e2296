//! Whom commands ask that show how something is now: the running daemon, else a census.

use super::Failure;
use crate::{control::ControlError, report::Source};

/// What the running daemon has answered; where there is none, or it cannot be asked, what a census says.
pub(super) fn daemon_else_census<T>(
    answer: Result<T, ControlError>,
    census: impl FnOnce() -> Result<T, Failure>,
) -> Result<(Source, T), Failure> {
    let found = match answer {
        Ok(answer) => return Ok((Source::Daemon, answer)),
        Err(ControlError::NoDaemon(_)) => census(),
        // Who may not ask the daemon may still hold the capabilities for a census.
        Err(error @ ControlError::NotRoot(_)) => census().map_err(|failure| failure.or_rather(error)),
        Err(error) => {
            tracing::warn!("{error}; taking a census instead");
            census()
        }
    };
    Ok((Source::Census, found?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_code;

    fn asked(
        answer: Result<u8, ControlError>,
        census: Result<u8, Failure>,
    ) -> Result<(Source, u8), (u8, String)> {
        daemon_else_census(answer, || census).map_err(|Failure { code, message }| (code, message))
    }

    fn failure(code: u8) -> Failure {
        Failure::new(code, "of the census".to_owned())
    }

    #[test]
    fn a_census_is_taken_where_the_daemon_cannot_be_asked_and_only_there() {
        assert_eq!(asked(Ok(1), Err(failure(exit_code::UNAVAILABLE))), Ok((Source::Daemon, 1)));
        let cut = ControlError::Cut { path: "/s".into(), count: 2, came: 1 };
        for error in [ControlError::NoDaemon("/s".into()), ControlError::NotRoot("/s".into()), cut] {
            assert_eq!(asked(Err(error), Ok(2)), Ok((Source::Census, 2)));
        }
    }

    #[test]
    fn who_may_neither_ask_nor_look_is_told_whom_the_daemon_answers() {
        let not_root = || ControlError::NotRoot("/s".into());
        let (code, message) = asked(Err(not_root()), Err(failure(exit_code::PERMISSION))).unwrap_err();
        assert_eq!((code, message), (exit_code::PERMISSION, not_root().to_string()));
        for error in [not_root(), ControlError::NoDaemon("/s".into())] {
            let (code, message) = asked(Err(error), Err(failure(exit_code::UNAVAILABLE))).unwrap_err();
            assert_eq!((code, message.as_str()), (exit_code::UNAVAILABLE, "of the census"));
        }
    }
}
