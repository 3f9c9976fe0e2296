//! The end of whoever asks.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    ControlError, EXPLAIN, HEADROOM, LEAKS, LOSSES, Question, SETUP, Setup, Verdict, WATCH, ZOMBIES,
};
use crate::{
    report::{Event, Explained, HeadroomEvent, LeaksEvent, LostEvent, SiteEvent, parse},
    watch::Listing,
};

/// How long the daemon may take to be asked and to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// Asks the daemon at `path` for every zombie that stands now, and for the circuit breakers that are open.
pub fn zombies(path: &Path) -> Result<Listing, ControlError> {
    ask(path, &Question::of(ZOMBIES), ANSWER).map(listing)
}

/// The same for those only that died in this cgroup and below it.
pub fn zombies_in(path: &Path, cgroup: &str) -> Result<Listing, ControlError> {
    let question = Question { workload: Some(cgroup.to_owned()), ..Question::of(ZOMBIES) };
    ask(path, &question, ANSWER).map(listing)
}

pub(super) fn listing(events: Vec<Event>) -> Listing {
    let mut listing = Listing::default();
    for event in events {
        match event {
            Event::Zombie(zombie) => listing.zombies.push(*zombie),
            Event::Breaker(breaker) => listing.breakers.push(*breaker),
            _ => {}
        }
    }
    listing
}

/// Asks the daemon at `path` what it has lost, each kind of loss in its order.
pub fn losses(path: &Path) -> Result<Vec<LostEvent>, ControlError> {
    let only = |event| if let Event::Lost(lost) = event { Some(lost) } else { None };
    Ok(ask(path, &Question::of(LOSSES), ANSWER)?.into_iter().filter_map(only).collect())
}

/// Asks the daemon at `path` for all that it knows of a pid.
pub fn explain(path: &Path, pid: u32) -> Result<Explained, ControlError> {
    let mut explained = Explained::default();
    for event in ask(path, &Question { pid: Some(pid), ..Question::of(EXPLAIN) }, ANSWER)? {
        match event {
            Event::Zombie(zombie) => explained.zombies.push(*zombie),
            Event::LeakSite(site) => explained.sites.push(*site),
            Event::Outlook(outlook) => explained.outlook = Some(*outlook),
            Event::Breaker(breaker) => explained.breakers.push(*breaker),
            Event::Headroom(headroom) => explained.headroom = Some(*headroom),
            _ => {}
        }
    }
    Ok(explained)
}

/// Asks the daemon at `path` how it was set up.
pub fn setup(path: &Path) -> Result<Setup, ControlError> {
    let answer = ask_all(path, &Question::of(SETUP), ANSWER)?;
    answer.setup.ok_or_else(|| ControlError::Refused {
        path: path.to_owned(),
        answer: "nothing of how it was set up".to_owned(),
    })
}

/// Asks the daemon at `path` to watch a holder for that long and for as long as it takes to know its times to reap.
pub fn watch(path: &Path, pid: u32, span: Duration) -> Result<(), ControlError> {
    let span_ms = Some(milliseconds(span));
    ask(path, &Question { pid: Some(pid), span_ms, ..Question::of(WATCH) }, ANSWER).map(drop)
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Asks the daemon at `path` how workloads stand to their limits on processes: the one that is called so, or all that have zombies.
pub fn headroom(path: &Path, workload: Option<&str>) -> Result<Vec<HeadroomEvent>, ControlError> {
    let question = Question { workload: workload.map(str::to_owned), ..Question::of(HEADROOM) };
    let only = |event| if let Event::Headroom(headroom) = event { Some(*headroom) } else { None };
    Ok(ask(path, &question, ANSWER)?.into_iter().filter_map(only).collect())
}

/// Leak sites, and what was counted of all.
pub type Leaks = (LeaksEvent, Vec<SiteEvent>);

/// Asks the daemon at `path` for its leak sites, those that leaked within `span` or all.
pub fn leaks(path: &Path, span: Option<Duration>) -> Result<Leaks, ControlError> {
    let span_ms = span.map(milliseconds);
    let mut events = ask(path, &Question { span_ms, ..Question::of(LEAKS) }, ANSWER)?.into_iter();
    let Some(Event::Leaks(head)) = events.next() else {
        return Err(ControlError::Refused { path: path.to_owned(), answer: "something else".to_owned() });
    };
    let only = |event| if let Event::LeakSite(site) = event { Some(*site) } else { None };
    Ok((*head, events.filter_map(only).collect()))
}

pub(super) fn ask(path: &Path, question: &Question, patience: Duration) -> Result<Vec<Event>, ControlError> {
    ask_all(path, question, patience).map(|answer| answer.events)
}

/// A whole answer.
struct Answer {
    setup: Option<Setup>,
    events: Vec<Event>,
}

fn ask_all(path: &Path, question: &Question, patience: Duration) -> Result<Answer, ControlError> {
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(async { timeout(patience, converse(path, question)).await }));
    match asked {
        Err(source) => Err(ControlError::Socket { path: path.to_owned(), source }),
        Ok(Err(_elapsed)) => Err(ControlError::Silent { path: path.to_owned(), patience }),
        Ok(Ok(answer)) => answer,
    }
}

async fn converse(path: &Path, question: &Question) -> Result<Answer, ControlError> {
    let failed = |source| ControlError::Socket { path: path.to_owned(), source };
    let stream = match UnixStream::connect(path).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(ControlError::NoDaemon(path.to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ControlError::NotRoot(path.to_owned()));
        }
        stream => stream.map_err(failed)?,
    };
    let (read, mut write) = stream.into_split();
    let question = serde_json::to_string(question).map_err(|error| failed(error.into()))? + "\n";
    write.write_all(question.as_bytes()).await.map_err(failed)?;
    let mut lines = BufReader::new(read).lines();
    let refused = |answer: String| ControlError::Refused { path: path.to_owned(), answer };
    let first = lines.next_line().await.map_err(failed)?.unwrap_or_default();
    let (count, setup) = match serde_json::from_str::<Verdict>(&first) {
        Ok(Verdict { ok: true, lines: Some(count), setup, .. }) => (count, setup),
        Ok(Verdict { ok: false, message, .. }) => return Err(refused(message.unwrap_or_default())),
        Ok(_) | Err(_) => return Err(refused("something that is not an answer".to_owned())),
    };
    let mut events = Vec::new();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        events.push(parse(&line)?);
    }
    if events.len() != count {
        return Err(ControlError::Cut { path: path.to_owned(), count, came: events.len() });
    }
    Ok(Answer { setup, events })
}
