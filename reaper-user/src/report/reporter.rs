//! Writes events to a sink, in one of the two forms.

use std::{
    io::{self, Write},
    time::Instant,
};

use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;

use super::{
    crowd::Crowd,
    event::{Event, ZombieEvent},
    explain,
    explanation::{Explained, ExplanationEvent},
    headroom::{self, HeadroomEvent},
    human::Human,
    json, leaks,
    leaks::LeaksView,
    listing::{Source, shares_rows, table},
    site::{LeaksEvent, SiteEvent},
};
use crate::config::Output;

/// Columns of a page whose width is not known: a file, a pipe.
const WIDTH: usize = 120;

/// What a human-readable sink looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its width in columns; `None` where it is no terminal.
    pub width: Option<usize>,
    /// Whether colour may be used.
    pub colour: bool,
}

impl Page {
    /// The process's standard output: colour on a terminal only, unless `NO_COLOR`, `CLICOLOR_FORCE` or `TERM`
    /// say otherwise.
    #[must_use]
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        Self {
            width: rustix::termios::tcgetwinsize(&stdout)
                .ok()
                .map(|size| usize::from(size.ws_col))
                // Some terminals (serial lines) know no size and say 0.
                .filter(|columns| *columns > 0),
            colour: AutoStream::choice(&stdout) != ColorChoice::Never,
        }
    }
}

/// Writes events, each with one write and a flush, so that a reader sees them at once and whole.
///
/// An error of kind [`io::ErrorKind::BrokenPipe`] means that whoever read the output has left, which for a
/// foreground command is a clean end.
#[derive(Debug)]
pub struct Reporter<W> {
    sink: W,
    form: Form,
    page: Page,
}

#[derive(Debug)]
enum Form {
    Human { human: Human, header_is_due: bool, crowd: Option<Crowd> },
    Json,
}

impl Reporter<io::Stdout> {
    /// Writes to the process's standard output.
    #[must_use]
    pub fn stdout(output: Output) -> Self {
        Self::new(io::stdout(), output, Page::of_stdout())
    }
}

impl<W: Write> Reporter<W> {
    /// Without heads of columns, where nothing stands in columns.
    #[must_use]
    pub fn without_head(mut self) -> Self {
        if let Form::Human { header_is_due, .. } = &mut self.form {
            *header_is_due = false;
        }
        self
    }

    /// With the stack below each zombie; JSON has it always.
    #[must_use]
    pub fn with_stacks(mut self) -> Self {
        if let Form::Human { human, .. } = &mut self.form {
            *human = human.clone().with_stacks();
        }
        self
    }

    /// In a stream that goes on: of many alike people are shown the first and told how many more there are, by
    /// [`Reporter::say_rest`]. JSON has each of them.
    #[must_use]
    pub fn in_a_stream(mut self) -> Self {
        if let Form::Human { crowd, .. } = &mut self.form {
            *crowd = Some(Crowd::new(Instant::now()));
        }
        self
    }

    /// Writes to `sink`. JSON takes no notice of the page.
    pub fn new(sink: W, output: Output, page: Page) -> Self {
        let form = match output {
            Output::Human => Form::Human {
                human: Human::new(page.width.unwrap_or(WIDTH), page.colour),
                header_is_due: true,
                crowd: None,
            },
            Output::Json => Form::Json,
        };
        Self { sink, form, page }
    }

    /// Writes what stands above the first event (the columns' heads), so that who watches sees that it runs.
    /// [`Reporter::report`] does it where this was not called. JSON has nothing there.
    pub fn start(&mut self) -> io::Result<()> {
        let text = self.head();
        self.write(&text)
    }

    /// Writes an event, or counts it.
    pub fn report(&mut self, event: &Event) -> io::Result<()> {
        let mut text = self.head();
        match &mut self.form {
            Form::Human { human, crowd, .. } => {
                if crowd.as_mut().is_none_or(|crowd| crowd.admits(event, Instant::now())) {
                    for line in human.lines(event) {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
            }
            Form::Json => {
                text.push_str(&json::to_line(event).map_err(io::Error::other)?);
                text.push('\n');
            }
        }
        if text.is_empty() { Ok(()) } else { self.write(&text) }
    }

    /// When what was counted is to be said; `None` where there is nothing.
    #[must_use]
    pub const fn rest_is_due(&self) -> Option<Instant> {
        match &self.form {
            Form::Human { crowd: Some(crowd), .. } => crowd.due(),
            _ => None,
        }
    }

    /// Writes what was counted.
    pub fn say_rest(&mut self) -> io::Result<()> {
        let mut text = String::new();
        if let Form::Human { human, crowd: Some(crowd), .. } = &mut self.form {
            for line in crowd.take(Instant::now()).iter().flat_map(|rest| human.rest(rest)) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        if text.is_empty() { Ok(()) } else { self.write(&text) }
    }

    /// Writes a list of zombies: for people a line that says where it is from, and a table, in which many alike share a row
    /// on a terminal unless `each` has one; in JSON a `listing` event and a `zombie` event each.
    pub fn list(
        &mut self,
        source: Source,
        zombies: &[ZombieEvent],
        each: bool,
        time: Timestamp,
    ) -> io::Result<()> {
        match &self.form {
            Form::Human { .. } => {
                let share = !each && shares_rows(zombies.len(), &self.page);
                let mut text = source.sentence(zombies.len()) + "\n";
                if share {
                    text += "alike ones share a row with the pid and age of the eldest: --each lists each\n";
                }
                self.write(&(text + &table(source, zombies, share, &self.page)))
            }
            Form::Json => {
                self.report(&Event::listing(source, zombies.len(), time))?;
                zombies.iter().try_for_each(|zombie| self.report(&Event::Zombie(Box::new(zombie.clone()))))
            }
        }
    }

    /// Writes leak sites: for people a table or each of them in full; in JSON an event each, after one that says what was counted.
    pub fn leaks(&mut self, head: &LeaksEvent, sites: &[SiteEvent], view: LeaksView) -> io::Result<()> {
        match &self.form {
            Form::Human { .. } => {
                let whole = || sites.iter().map(|site| leaks::whole(site, &self.page)).collect::<Vec<_>>();
                let text = match view {
                    LeaksView::Whole => whole().join("\n"),
                    LeaksView::All => leaks::table(head, sites, false, &self.page),
                    LeaksView::Some => leaks::table(head, sites, true, &self.page),
                };
                self.write(&text)
            }
            Form::Json => {
                self.report(&Event::Leaks(Box::new(head.clone())))?;
                sites.iter().try_for_each(|site| self.report(&Event::LeakSite(Box::new(site.clone()))))
            }
        }
    }

    /// Writes how workloads stand to their limits: for people a table, or with `whole` each of them in full; in JSON an event each.
    pub fn headrooms(&mut self, source: Source, rows: &[HeadroomEvent], whole: bool) -> io::Result<()> {
        match &self.form {
            Form::Human { .. } => {
                let text = if whole {
                    rows.iter().map(|row| headroom::whole(row, &self.page)).collect::<Vec<_>>().join("\n")
                } else {
                    headroom::table(source, rows, &self.page)
                };
                self.write(&text)
            }
            Form::Json => {
                rows.iter().try_for_each(|row| self.report(&Event::Headroom(Box::new(row.clone()))))
            }
        }
    }

    /// Writes what is known of a pid: for people a page; in JSON an event each, after one that says what it is.
    pub fn explanation(&mut self, head: &ExplanationEvent, explained: &Explained) -> io::Result<()> {
        match &self.form {
            Form::Human { .. } => {
                let text = explain::page(head, explained, &self.page);
                self.write(&text)
            }
            Form::Json => {
                let Explained { zombies, sites, outlook, breakers, headroom } = explained.clone();
                let zombies = zombies.into_iter().map(|zombie| Event::Zombie(Box::new(zombie)));
                let sites = sites.into_iter().map(|site| Event::LeakSite(Box::new(site)));
                let outlook = outlook.into_iter().map(|outlook| Event::Outlook(Box::new(outlook)));
                let breakers = breakers.into_iter().map(|breaker| Event::Breaker(Box::new(breaker)));
                let headroom = headroom.into_iter().map(|headroom| Event::Headroom(Box::new(headroom)));
                self.report(&Event::Explanation(Box::new(head.clone())))?;
                let all = zombies.chain(sites).chain(outlook).chain(breakers).chain(headroom);
                all.into_iter().try_for_each(|event| self.report(&event))
            }
        }
    }

    fn head(&mut self) -> String {
        match &mut self.form {
            Form::Human { human, header_is_due: due @ true, .. } => {
                *due = false;
                human.header() + "\n"
            }
            Form::Human { .. } | Form::Json => String::new(),
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(text.as_bytes())?;
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    const PAGE: Page = Page { width: Some(80), colour: false };

    fn written(output: Output, act: impl FnOnce(&mut Reporter<&mut Vec<u8>>)) -> String {
        let mut sink = Vec::new();
        act(&mut Reporter::new(&mut sink, output, PAGE));
        String::from_utf8(sink).unwrap()
    }

    #[test]
    fn the_heads_come_first_and_once() {
        let event = fixture::event(&fixture::never_waited());
        for start in [false, true] {
            let text = written(Output::Human, |reporter| {
                if start {
                    reporter.start().unwrap();
                }
                reporter.report(&event).unwrap();
                reporter.report(&event).unwrap();
            });
            assert!(text.starts_with("UTC "), "{text}");
            assert_eq!(text.matches("HOLDER").count(), 1);
            assert_eq!(text.lines().count(), 5);
        }
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = written(Output::Json, |reporter| {
            reporter.start().unwrap();
            for zombie in fixture::all() {
                reporter.report(&fixture::event(&zombie)).unwrap();
                reporter.report(&fixture::released(&zombie)).unwrap();
            }
        });
        assert_eq!(text.lines().count(), 2 * fixture::all().len());
        assert!(text.lines().all(|line| json::parse(line).is_ok()));
    }

    #[test]
    fn a_list_says_where_it_is_from_in_both_forms() {
        let zombies = [fixture::shown(&fixture::never_waited())];
        let list = |reporter: &mut Reporter<&mut Vec<u8>>| {
            reporter.list(Source::Daemon, &zombies, false, fixture::time()).unwrap();
        };
        let text = written(Output::Human, list);
        assert!(text.starts_with("1 zombie, from the running daemon\n"), "{text}");
        let text = written(Output::Json, list);
        let first = r#"{"schema":1,"event":"listing","time":"2026-02-03T14:03:07.250000Z","source":"daemon","count":1}"#;
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn a_reader_that_left_is_an_error_of_its_own_kind() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut reporter = Reporter::new(Closed, Output::Json, PAGE);
        let error = reporter.report(&fixture::event(&fixture::never_waited())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
