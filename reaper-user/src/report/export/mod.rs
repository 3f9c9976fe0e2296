//! Leak sites for other tools and for the eye: folded stacks, a pprof profile, a page with a picture.
//!
//! All three are made of [`Sample`]s: a path from the outermost to the innermost place, and how many zombies it led to.

mod folded;
mod html;
mod pprof;
mod proto;
mod tree;

pub use self::{folded::folded, html::html, pprof::pprof};
use crate::text::Untrusted;

/// A path that leaks, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// From the outermost to the innermost: the workload, the processes, the frames.
    pub path: Vec<Place>,
    /// Zombies that stand now.
    pub standing: u64,
    /// Zombies in all, those that stand included.
    pub total: u64,
    /// The leak site's id.
    pub site: Untrusted,
    /// The workload's name.
    pub workload: Untrusted,
    /// How far the path can be trusted, in one word.
    pub quality: &'static str,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// A function, a module with an offset, a process, or a workload.
    pub name: Untrusted,
    /// Its source.
    pub file: Option<Untrusted>,
    /// The line in that.
    pub line: Option<u32>,
}

impl Place {
    /// One that is no code.
    #[must_use]
    pub const fn named(name: Untrusted) -> Self {
        Self { name, file: None, line: None }
    }

    /// All of it in one text: `function file:line`.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { name, file, line } = self;
        match (file, line) {
            (Some(file), Some(line)) => format!("{name} {file}:{line}"),
            (Some(file), None) => format!("{name} {file}"),
            (None, _) => name.to_string(),
        }
    }
}

#[cfg(test)]
pub(super) mod fixture {
    use super::*;

    fn place(name: &str, line: u32) -> Place {
        Place { name: name.into(), file: Some("/srv/crawl.py".into()), line: Some(line) }
    }

    /// Two lines of one function of one program, and one that another program leaks without a stack.
    pub(crate) fn samples() -> Vec<Sample> {
        let root = || [Place::named("crawler".into()), Place::named("python3".into())];
        let at = |line| [root().to_vec(), vec![place("main", 7), place("open_browser", line)]].concat();
        let sample = |path, standing, total, site: &str| Sample {
            path,
            standing,
            total,
            site: site.into(),
            workload: "crawler".into(),
            quality: "exact",
        };
        vec![
            sample(at(42), 3, 30, "0a1b2c3d"),
            sample(at(58), 1, 10, "1b2c3d4e"),
            Sample {
                quality: "lineage-only",
                ..sample(vec![Place::named("host".into()), Place::named("sh".into())], 0, 2, "2c3d4e5f")
            },
        ]
    }

    /// Names that mean something to a terminal, to HTML and to tools that read folded stacks.
    pub(crate) fn hostile() -> Sample {
        let name = "a;b 7\n<script>alert(1)</script>\u{202e}\x1b[2J\"'&amp; x=`y`".into();
        let file = "</style>;\r\n<img src=x onerror=y>".into();
        Sample {
            path: vec![
                Place::named("<b>;".into()),
                Place { name, file: Some(file), line: Some(1) },
                Place::named(Untrusted::default()),
            ],
            standing: 1,
            total: 1,
            site: "\"><i>".into(),
            workload: "<b>;".into(),
            quality: "approximate",
        }
    }
}
