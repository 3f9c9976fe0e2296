//! Patterns for names and paths, as in a shell: `*` within a name, `**` across names, `?`, `[abc]`.

use std::str::FromStr;

use glob::MatchOptions;
use thiserror::Error;

use crate::text::Untrusted;

/// A `*` ends at a slash; nothing is hidden by a dot.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(glob::Pattern);

/// Text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "\"{text}\" is not a pattern ({reason}): write a name or a path, with `*` for a part of a name, `**` as a whole name \
     for any number of them, `?` for a character"
)]
pub struct PatternError {
    text: Untrusted,
    reason: &'static str,
}

impl Pattern {
    /// True where it fits all of `text`.
    #[must_use]
    pub fn matches(&self, text: &Untrusted) -> bool {
        self.0.matches_with(text.as_str(), OPTIONS)
    }

    /// True where it names nothing: it has no character of its own beside slashes, so that any name may fit.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.0.as_str().contains(|character| !matches!(character, '*' | '?' | '/'))
    }

    /// True where it fits one text only.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.as_str().contains(['*', '?', '['])
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let failed = |reason| PatternError { text: text.into(), reason };
        if text.is_empty() {
            return Err(failed("it is empty"));
        }
        // What it is compared with was escaped, so this is too: a backslash is no character of patterns.
        glob::Pattern::new(Untrusted::from(text).as_str()).map(Self).map_err(|error| failed(error.msg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, text: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(&text.into())
    }

    #[test]
    fn a_star_ends_at_a_slash_and_two_do_not() {
        assert!(fits("/system.slice/*.service", "/system.slice/nginx.service"));
        assert!(!fits("/system.slice/*", "/system.slice/a.service/b"));
        assert!(fits("/kubepods.slice/**", "/kubepods.slice/a/b/c"));
        assert!(fits("/kubepods*/**/cri-*", "/kubepods.slice/a/b/cri-x.scope"));
        assert!(!fits("nginx", "nginx.service"), "the whole text");
    }

    #[test]
    fn escapes_compare_as_they_are_shown() {
        assert!(fits(r"dev-disk\x2d?", r"dev-disk\x2da"));
        assert!(fits("a\u{1b}*", "a\u{1b}b"));
    }

    #[test]
    fn what_names_nothing_and_what_names_one_is_known() {
        for (pattern, everything, literal) in [
            ("*", true, false),
            ("/**", true, false),
            ("/*/*", true, false),
            ("?*", true, false),
            ("/a/**", false, false),
            ("[ab]", false, false),
            ("/usr/bin/python3", false, true),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!((parsed.is_everything(), parsed.is_literal()), (everything, literal), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (text, part) in [("", "empty"), ("a**b", "recursive"), ("[a", "range"), ("***", "wildcards")] {
            let told = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_long_hostile_name_is_compared_in_no_time() {
        let name = "a".repeat(4_000);
        assert!(!fits(&("a*".repeat(30) + "b"), &name));
    }
}
