//! What the daemon serves, read as a client does that knows nothing of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::support::Daemon;

/// Longer than any of it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Has the daemon take an address that is free.
pub(crate) const ANY: [&str; 2] = ["--metrics-listen", "127.0.0.1:0"];

/// Where the daemon says that its metrics are.
pub(crate) fn address(daemon: &Daemon) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = daemon.log();
        if let Some((_, rest)) = log.split_once("metrics are at http://") {
            return rest.split_once("/metrics").unwrap().0.to_owned();
        }
        assert!(Instant::now() < deadline, "no metrics:\n{log}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What is answered to a GET: the status line, and the body.
pub(crate) fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// The samples of one look at it.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) text: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Page {
    pub(crate) fn take(address: &str) -> Self {
        let (status, text) = get(address, "/metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Self { text, samples }
    }

    /// Looks until it is as `wanted`.
    pub(crate) fn when(address: &str, what: &str, wanted: impl Fn(&Self) -> bool) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = Self::take(address);
            if wanted(&page) {
                return page;
            }
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}:\n{}", page.text);
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The sum of a metric over all label sets that have these labels; 0 where there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).map(|(_, value)| value).sum()
    }

    /// The label sets of a metric.
    pub(crate) fn label_sets(&self, name: &str) -> usize {
        self.with(name, &[]).count()
    }

    /// The metric that has the most label sets, and how many. The buckets of one histogram are one.
    pub(crate) fn most_label_sets(&self) -> (&str, usize) {
        let mut sets = BTreeMap::<_, BTreeSet<Vec<_>>>::new();
        for (name, labels, _) in &self.samples {
            let labels = labels.iter().filter(|(key, _)| *key != "le").collect();
            sets.entry(name.as_str()).or_default().insert(labels);
        }
        let most = sets.into_iter().map(|(name, sets)| (name, sets.len())).max_by_key(|(_, sets)| *sets);
        most.unwrap()
    }

    fn with<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = (&'a BTreeMap<String, String>, f64)> {
        self.samples.iter().filter_map(move |(found, of, value)| {
            let fits = found == name
                && labels.iter().all(|(key, wanted)| of.get(*key).is_some_and(|value| value == wanted));
            fits.then_some((of, *value))
        })
    }
}

/// `name{key="value",…} number`.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
    let Some((name, labels)) = series.split_once('{') else {
        return (series.to_owned(), BTreeMap::new(), value);
    };
    let mut labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
    let mut found = BTreeMap::new();
    while let Some((key, rest)) = labels.split_once("=\"") {
        let end = end_of_value(rest).unwrap_or_else(|| panic!("{line}"));
        let text = rest[..end].replace("\\\"", "\"").replace("\\\\", "\\");
        found.insert(key.trim_start_matches(',').to_owned(), text);
        labels = &rest[end + 1..];
    }
    (name.to_owned(), found, value)
}

/// Where the quote is that no backslash stands before.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}
