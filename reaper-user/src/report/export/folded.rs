//! Folded stacks, as flame graph tools read them: `outermost;…;innermost count`, a line for each path.

use super::Sample;

/// A line for each sample that counts something, by zombies in all.
#[must_use]
pub fn folded(samples: &[Sample]) -> String {
    let mut text = String::new();
    for sample in samples.iter().filter(|sample| sample.total > 0) {
        for (depth, place) in sample.path.iter().enumerate() {
            if depth > 0 {
                text.push(';');
            }
            push(&mut text, &place.text());
        }
        text.push_str(&format!(" {}\n", sample.total));
    }
    text
}

/// A name without what ends a frame. Line ends are escaped already, and so is the backslash: what is written here can be
/// told from what was there.
fn push(text: &mut String, name: &str) {
    if name.is_empty() {
        text.push('?');
    }
    for character in name.chars() {
        match character {
            ';' => text.push_str(r"\x3b"),
            _ => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::export::fixture;

    #[test]
    fn a_path_is_a_line_with_its_count_at_the_end() {
        assert_eq!(
            folded(&fixture::samples()),
            concat!(
                "crawler;python3;main /srv/crawl.py:7;open_browser /srv/crawl.py:42 30\n",
                "crawler;python3;main /srv/crawl.py:7;open_browser /srv/crawl.py:58 10\n",
                "host;sh 2\n",
            )
        );
    }

    #[test]
    fn no_name_adds_a_frame_or_a_line() {
        let text = folded(&[fixture::hostile()]);
        assert_eq!((text.lines().count(), text.matches(';').count()), (1, 2), "{text:?}");
        assert!(text.starts_with(r"<b>\x3b;a\x3bb 7\n<script>") && text.ends_with(";? 1\n"), "{text:?}");
        assert!(!text.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }

    #[test]
    fn what_counts_nothing_is_left_out() {
        let nothing = Sample { total: 0, standing: 0, ..fixture::hostile() };
        assert_eq!(folded(&[nothing]), "");
    }
}
