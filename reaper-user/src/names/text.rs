//! Bounds of what is taken from an answer.

use super::{Names, OPT_OUT_LABEL};
use crate::text::Untrusted;

/// Bytes of a name. Kubernetes' are at most 253.
const NAME: usize = 256;

/// Bytes of an image's name, a description, or what went wrong.
const LONG: usize = 512;

/// Bytes of a label's key: a prefix of 253, a slash, a name of 63.
const KEY: usize = 320;

/// Labels that are kept of a workload.
pub(super) const LABELS: usize = 64;

/// A name, cut where it is too long; `None` where it is empty.
pub(super) fn name(text: &str) -> Option<Untrusted> {
    cut(text, NAME)
}

/// A text, cut where it is too long; `None` where it is empty.
pub(super) fn long(text: &str) -> Option<Untrusted> {
    cut(text, LONG)
}

/// What somebody said went wrong.
pub(super) fn told(text: &str) -> Untrusted {
    long(text).unwrap_or_default()
}

/// An empty text is none: protocol buffers know no other.
fn cut(text: &str, most: usize) -> Option<Untrusted> {
    if text.is_empty() {
        return None;
    }
    if text.len() <= most {
        return Some(text.into());
    }
    Some(format!("{}…", &text[..text.floor_char_boundary(most)]).as_str().into())
}

/// Sets the labels from what a pod and its container have, and what follows from them. A label is kept whole or not at all, because
/// rules compare it.
pub(super) fn set_labels<'a>(
    names: &mut Names,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
    mut annotations: impl Iterator<Item = (&'a String, &'a String)>,
) {
    let mut kept = Vec::<(Untrusted, Untrusted)>::new();
    for (key, value) in labels {
        if is_opt_out((key, value)) {
            names.opts_out = true;
        }
        if kept.len() < LABELS && key.len() <= KEY && value.len() <= LONG {
            let key = Untrusted::from(key.as_str());
            if !kept.iter().any(|(known, _)| *known == key) {
                kept.push((key, value.as_str().into()));
            }
        } else {
            names.labels_lost += 1;
        }
    }
    kept.sort();
    names.labels = kept;
    names.opts_out |= annotations.any(is_opt_out);
}

fn is_opt_out((key, value): (&String, &String)) -> bool {
    key == OPT_OUT_LABEL && value == "off"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn long_names_are_cut_between_characters_and_empty_ones_are_none() {
        assert_eq!(name(""), None);
        assert_eq!(name("a\x1b[2J").unwrap().as_str(), r"a\x1b[2J");
        let cut = name(&"é".repeat(200)).unwrap();
        assert_eq!(cut.as_str(), format!("{}…", "é".repeat(128)));
    }

    #[test]
    fn labels_are_bounded_and_never_cut() {
        let many: BTreeMap<_, _> = (0..100).map(|number| (format!("k{number:02}"), "v".to_owned())).collect();
        let long = BTreeMap::from([("a".to_owned(), "x".repeat(513))]);
        let mut names = Names::default();
        set_labels(&mut names, long.iter().chain(&many), std::iter::empty());
        assert_eq!((names.labels.len(), names.labels_lost), (LABELS, 37));
        assert_eq!(names.labels[0].0.as_str(), "k00");
    }

    #[test]
    fn the_first_of_two_labels_counts_and_the_opt_out_is_seen_wherever_it_stands() {
        let of = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let mut names = Names::default();
        let (pod, container) = (of("app", "shop"), of("app", "other"));
        set_labels(&mut names, pod.iter().chain(&container), std::iter::empty());
        assert_eq!((names.labels.as_slice(), names.opts_out), (&[("app".into(), "shop".into())][..], false));
        let off = of(OPT_OUT_LABEL, "off");
        set_labels(&mut names, pod.iter(), off.iter());
        assert!(names.opts_out);
        let mut others = Names::default();
        set_labels(&mut others, of(OPT_OUT_LABEL, "on").iter(), std::iter::empty());
        assert!(!others.opts_out);
    }
}
