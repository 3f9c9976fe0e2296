//! A profile that `go tool pprof` and whatever else reads pprof opens:
//! <https://github.com/google/pprof/blob/main/proto/profile.proto>.

use std::{
    collections::HashMap,
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;

use super::{Place, Sample, proto::Message};

/// Fields of `Profile`.
mod profile {
    pub(super) const SAMPLE_TYPE: u32 = 1;
    pub(super) const SAMPLE: u32 = 2;
    pub(super) const LOCATION: u32 = 4;
    pub(super) const FUNCTION: u32 = 5;
    pub(super) const STRING_TABLE: u32 = 6;
    pub(super) const TIME_NANOS: u32 = 9;
    pub(super) const COMMENT: u32 = 13;
    pub(super) const DEFAULT_SAMPLE_TYPE: u32 = 14;
}

/// Fields of the messages inside it, which count from 1 in the order of the description.
mod inner {
    pub(super) const VALUE_TYPE: [u32; 2] = [1, 2];
    pub(super) const SAMPLE_LOCATION_ID: u32 = 1;
    pub(super) const SAMPLE_VALUE: u32 = 2;
    pub(super) const SAMPLE_LABEL: u32 = 3;
    pub(super) const LABEL_KEY: u32 = 1;
    pub(super) const LABEL_STR: u32 = 2;
    pub(super) const LOCATION_ID: u32 = 1;
    pub(super) const LOCATION_LINE: u32 = 4;
    pub(super) const LINE_FUNCTION_ID: u32 = 1;
    pub(super) const LINE_LINE: u32 = 2;
    pub(super) const FUNCTION_ID: u32 = 1;
    pub(super) const FUNCTION_NAME: u32 = 2;
    pub(super) const FUNCTION_FILENAME: u32 = 4;
}

/// What is counted, in the order of a sample's values.
const KINDS: [&str; 2] = ["zombies_standing", "zombies_total"];

/// What is shown unless something else is asked for (`-sample_index=zombies_standing`).
const SHOWN: &str = "zombies_total";

/// The profile, compressed, as files of this kind are.
pub fn pprof(samples: &[Sample], comment: &str, time: Timestamp) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&unzipped(samples, comment, time))?;
    encoder.finish()
}

/// The profile as it is before it is compressed.
fn unzipped(samples: &[Sample], comment: &str, time: Timestamp) -> Vec<u8> {
    let mut writer = Writer::default();
    // The first text of the table is empty: 0 means none.
    writer.text("");
    for kind in KINDS {
        let mut message = Message::default();
        let [kind_field, unit_field] = inner::VALUE_TYPE;
        message.number(kind_field, writer.text(kind));
        message.number(unit_field, writer.text("count"));
        writer.profile.message(profile::SAMPLE_TYPE, &message);
    }
    for sample in samples {
        writer.sample(sample);
    }
    let (comment, shown) = (writer.text(comment), writer.text(SHOWN));
    let mut whole = writer.profile;
    for text in writer.texts {
        whole.text(profile::STRING_TABLE, &text);
    }
    whole.number(profile::TIME_NANOS, u64::try_from(time.as_nanosecond()).unwrap_or(0));
    whole.numbers(profile::COMMENT, &[comment]);
    whole.number(profile::DEFAULT_SAMPLE_TYPE, shown);
    whole.into_bytes()
}

/// A profile while it is written, and what in it is numbered.
#[derive(Default)]
struct Writer<'a> {
    profile: Message,
    texts: Vec<String>,
    text_numbers: HashMap<String, u64>,
    /// By name and file.
    functions: HashMap<(u64, u64), u64>,
    locations: HashMap<&'a Place, u64>,
}

impl<'a> Writer<'a> {
    fn text(&mut self, text: &str) -> u64 {
        if let Some(number) = self.text_numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u64;
        self.texts.push(text.to_owned());
        self.text_numbers.insert(text.to_owned(), number);
        number
    }

    fn function(&mut self, place: &Place) -> u64 {
        let name = self.text(place.name.as_str());
        let file = place.file.as_ref().map_or(0, |file| self.text(file.as_str()));
        if let Some(number) = self.functions.get(&(name, file)) {
            return *number;
        }
        let number = self.functions.len() as u64 + 1;
        let mut message = Message::default();
        message.number(inner::FUNCTION_ID, number);
        message.number(inner::FUNCTION_NAME, name);
        message.number(inner::FUNCTION_FILENAME, file);
        self.profile.message(profile::FUNCTION, &message);
        self.functions.insert((name, file), number);
        number
    }

    fn location(&mut self, place: &'a Place) -> u64 {
        if let Some(number) = self.locations.get(place) {
            return *number;
        }
        let mut line = Message::default();
        line.number(inner::LINE_FUNCTION_ID, self.function(place));
        line.number(inner::LINE_LINE, place.line.map_or(0, u64::from));
        let number = self.locations.len() as u64 + 1;
        let mut message = Message::default();
        message.number(inner::LOCATION_ID, number);
        message.message(inner::LOCATION_LINE, &line);
        self.profile.message(profile::LOCATION, &message);
        self.locations.insert(place, number);
        number
    }

    fn sample(&mut self, sample: &'a Sample) {
        let Sample { path, standing, total, site, workload, quality } = sample;
        // The innermost comes first here.
        let locations: Vec<_> = path.iter().rev().map(|place| self.location(place)).collect();
        let mut message = Message::default();
        message.numbers(inner::SAMPLE_LOCATION_ID, &locations);
        message.numbers(inner::SAMPLE_VALUE, &[*standing, *total]);
        for (key, text) in [("site", site.as_str()), ("workload", workload.as_str()), ("quality", *quality)] {
            let mut label = Message::default();
            label.number(inner::LABEL_KEY, self.text(key));
            label.number(inner::LABEL_STR, self.text(text));
            message.message(inner::SAMPLE_LABEL, &label);
        }
        self.profile.message(profile::SAMPLE, &message);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::report::export::fixture;

    fn time() -> Timestamp {
        "2026-02-03T14:03:07.25Z".parse().unwrap()
    }

    #[test]
    fn the_profile_is_compressed_and_nothing_else_is_done_to_it() {
        let samples = fixture::samples();
        let mut plain = Vec::new();
        let zipped = pprof(&samples, "reaper leaks", time()).unwrap();
        GzDecoder::new(zipped.as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, unzipped(&samples, "reaper leaks", time()));
    }

    #[test]
    fn places_and_functions_that_are_the_same_are_there_once() {
        let samples = fixture::samples();
        let mut writer = Writer::default();
        for sample in &samples {
            writer.sample(sample);
        }
        // crawler, python3, main:7, open_browser:42, open_browser:58, host, sh
        assert_eq!((writer.locations.len(), writer.functions.len()), (7, 6));
        let once = |text: &str| writer.texts.iter().filter(|known| *known == text).count();
        assert_eq!((once("/srv/crawl.py"), once("crawler"), once("site")), (1, 1, 1));
    }
}
