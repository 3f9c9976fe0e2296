//! What leaves the program: events, as JSON for programs and as aligned columns for people.
//!
//! [`Event`] is built from the domain's types and is what JSON shows, field by field; `schema/event.schema.json`
//! describes it. Everything a container could have written is [`Untrusted`](crate::text::Untrusted), so no sink
//! receives a byte that acts on it.

mod advice;
mod columns;
mod crowd;
mod event;
mod evidence;
mod explain;
mod explanation;
pub mod export;
mod filter;
mod headroom;
mod human;
mod json;
mod leaks;
mod listing;
mod loss;
mod numbered;
mod origin;
mod outbox;
mod remedied;
mod reporter;
mod signals;
mod site;
mod span;
pub(crate) mod words;
mod workload;

pub use self::{
    event::{
        Event, ForkerProcess, ListingEvent, LostEvent, Process, ProcessId, ReleasedEvent, Seconds,
        ZombieEvent,
    },
    evidence::{ShownEvidence, ShownWaits},
    explanation::{Explained, ExplanationEvent, OutlookEvent, OutlookStep, StepStanding, What},
    filter::Filter,
    headroom::{
        Exhaustion, ForkFailedEvent, HeadroomEvent, Holding, LimitKind, NoLimit, ShownForker, ShownLimit,
        ShownRate, ZombiesOf, forecast, meant_by, percent,
    },
    json::{ParseError, SCHEMA, parse, to_line},
    leaks::LeaksView,
    listing::{Source, shares_rows, table},
    loss::{Counted, Loss},
    numbered::numbered,
    origin::{ShownFrame, ShownLink, ShownOrigin, ShownStack},
    outbox::{Backlog, Outbox, Outgoing},
    remedied::{BreakerEvent, Outcome, RemediedZombie, RemedyEvent, State},
    reporter::{Page, Reporter},
    site::{LeaksEvent, Qualities, SiteEvent, Window},
    span::shown,
    workload::{ShownWorkload, is_within},
};

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod schema_tests;
