//! Values of rules, as they are written.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{
    span::Span,
    value::{FromText, ValueError},
};
use crate::{policy::Percent, remedy::Remedy, workload::Kind, zombie::Cause};

/// One value, or a list of at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Any<T>(pub(super) Vec<T>);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Any<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: FromStr<Err: fmt::Display>> de::Visitor<'de> for Visitor<T> {
            type Value = Any<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(|value| Any(vec![value])).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(Text(value)) = list.next_element()? {
                    values.push(value);
                }
                if values.is_empty() {
                    return Err(de::Error::custom(
                        "a list without values fits nobody: leave the key out to fit all",
                    ));
                }
                Ok(Any(values))
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

/// A value by its [`FromStr`].
struct Text<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText(PhantomData)).map(Self)
    }
}

/// A duration of any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ago(pub(super) Duration);

impl<'de> Deserialize<'de> for Ago {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(Span(span)) = Text::deserialize(deserializer)?;
        Ok(Self(span))
    }
}

/// A part of a limit, written as `20%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share(pub(super) Percent);

impl FromStr for Share {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let hundredths = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        hundredths.and_then(Percent::new).map(Self).ok_or_else(|| ValueError::Percent(text.into()))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer).map(|Text(share)| share)
    }
}

/// A word of the program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<T>(pub(super) T);

macro_rules! word {
    ($name:ty, $known:expr, $words:literal) => {
        impl FromStr for Word<$name> {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                let known = $known.into_iter().find(|word| word.as_str() == text).map(Self);
                known.ok_or_else(|| ValueError::Word { value: text.into(), words: $words })
            }
        }

        impl<'de> Deserialize<'de> for Word<$name> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Text::deserialize(deserializer).map(|Text(word)| word)
            }
        }
    };
}

word!(Remedy, Remedy::ALL, "\"report\", \"nudge\", \"reap\", \"autoreap\" and \"terminate-holder\"");
word!(Kind, Kind::ALL, "\"pod\", \"container\", \"machine\", \"unit\", \"session\" and \"host\"");
word!(
    Cause,
    Cause::ALL,
    "\"held-by-tracer\", \"namespace-dying\", \"holder-stopped\", \"adopted\", \"inherited\", \
     \"notification-coalesced\", \"never-waited\" and \"unknown\""
);
