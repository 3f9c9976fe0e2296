//! `reaper leaks`: the leak sites that the running daemon has counted, as a table, in full, or for other tools.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use super::{Failure, args::LeaksArgs, start_log, written};
use crate::{
    config::{LogLevel, Output, Span},
    control::{self, ControlError},
    exit_code,
    report::{
        LeaksEvent, LeaksView, Reporter, SiteEvent,
        export::{self, Sample},
        numbered,
    },
    text::Untrusted,
};

/// Shows them.
pub(super) fn run(args: &LeaksArgs, output: Option<Output>) -> Result<u8, Failure> {
    start_log(LogLevel::Warn);
    let exports = args.folded || args.pprof.is_some() || args.html.is_some();
    if exports && output.is_some() {
        let message = "--output says how a table is written: leave it out with --folded, --pprof and --html";
        return Err(Failure::new(exit_code::USAGE, message.to_owned()));
    }
    let (mut head, mut sites) =
        control::leaks(&control::socket(), args.since.map(|span| span.0)).map_err(|error| match error {
            ControlError::NoDaemon(_) => Failure::new(
                exit_code::UNAVAILABLE,
                format!("{error}: leak sites are counted while `reaper run` runs"),
            ),
            error => error.into(),
        })?;
    sites.retain(|site| is_meant(args, site));
    head.sites = sites.len();
    if exports {
        let samples: Vec<_> = sites.iter().map(SiteEvent::sample).collect();
        write_exports(args, &head, &samples)?;
    } else {
        let mut reporter = Reporter::stdout(output.unwrap_or_default()).without_head();
        reporter.leaks(&head, &sites, view(args)).map_err(written)?;
    }
    if sites.is_empty() && !args.sites.is_empty() {
        let message = "no site that is kept has such an id, leaked in that time and is of that workload";
        return Err(Failure::new(exit_code::UNAVAILABLE, message.to_owned()));
    }
    Ok(exit_code::OK)
}

const fn view(args: &LeaksArgs) -> LeaksView {
    match args {
        LeaksArgs { sites, .. } if !sites.is_empty() => LeaksView::Whole,
        LeaksArgs { workload: None, since: None, .. } => LeaksView::All,
        _ => LeaksView::Some,
    }
}

fn is_meant(args: &LeaksArgs, site: &SiteEvent) -> bool {
    let id = site.site.to_string();
    let by_id = args.sites.is_empty() || args.sites.iter().any(|wanted| id.starts_with(wanted.as_str()));
    let by_workload =
        args.workload.as_ref().is_none_or(|name| site.workload.is_meant_by(&Untrusted::new(name.as_bytes())));
    by_id && by_workload
}

fn write_exports(args: &LeaksArgs, head: &LeaksEvent, samples: &[Sample]) -> Result<(), Failure> {
    let about = about(args, head);
    if args.folded {
        io::stdout().write_all(export::folded(samples).as_bytes()).map_err(written)?;
    }
    if let Some(path) = &args.pprof {
        if is_stdout(path) && io::stdout().is_terminal() {
            let message = "a pprof profile is no text: write it to a file, or into a pipe";
            return Err(Failure::new(exit_code::USAGE, message.to_owned()));
        }
        let profile = export::pprof(samples, &about, head.time).map_err(written)?;
        write_to(path, &profile)?;
    }
    if let Some(path) = &args.html {
        write_to(path, export::html(samples, &about).as_bytes())?;
    }
    io::stdout().flush().map_err(written)
}

/// What was counted, in a line.
fn about(args: &LeaksArgs, head: &LeaksEvent) -> String {
    let LeaksEvent { time, counted_since, sites, .. } = head;
    let since = match args.since {
        Some(Span(span)) => format!("in the last {}", Span(span)),
        None => format!("since {counted_since:.0}"),
    };
    let sites = numbered(*sites, "leak site", "leak sites");
    format!("{sites}: zombies that were reported {since}, as of {time:.0}")
}

fn write_to(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if is_stdout(path) {
        return io::stdout().write_all(bytes).map_err(written);
    }
    fs::write(path, bytes).map_err(|error| {
        Failure::new(
            exit_code::UNAVAILABLE,
            format!("{}: {error}", Untrusted::new(path.as_os_str().as_bytes())),
        )
    })
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}
