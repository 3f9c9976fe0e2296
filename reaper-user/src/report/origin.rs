//! Where a zombie comes from, as JSON has it and in words.

use serde::{Deserialize, Serialize};
use unicode_width::UnicodeWidthStr as _;

use super::columns::{cut, wrap};
use crate::{
    identity::BootTime,
    origin::{Frame, FrameKind, Language, Link, Origin, Print, Quality, SiteId, Stack},
    text::Untrusted,
};

/// Where a zombie comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownOrigin {
    /// How good it is.
    pub quality: Quality,
    /// The leak site that it counts at.
    pub site: SiteId,
    /// The forker, then that one's forker, and so on.
    pub chain: Vec<ShownLink>,
    /// Where the nearest process of the chain that has a stack was when it forked. Where the quality says that there is none, a
    /// process below that one lives: then it is where that was started, and tells nothing of the leak.
    pub stack: Option<ShownStack>,
    /// Which process of the chain that is, as an index.
    pub stack_of: Option<usize>,
}

/// A process that forked another of the chain, or the zombie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownLink {
    /// Its pid in the initial pid namespace.
    pub pid: u32,
    /// When it was forked, nanoseconds since boot.
    pub start_time: BootTime,
    /// Its name: a living one's now, a dead one's when it died.
    pub comm: Untrusted,
    /// Its command line, likewise.
    pub cmdline: Option<Untrusted>,
    /// Whether it lives.
    pub alive: bool,
}

/// A stack at a fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownStack {
    /// What it is a stack of.
    pub language: Language,
    /// True where there were more frames.
    pub cut: bool,
    /// The frame to look at first, as an index: the innermost that is not of the language's own library.
    pub place: Option<usize>,
    /// The innermost first.
    pub frames: Vec<ShownFrame>,
}

/// A function on a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownFrame {
    /// Its name.
    pub function: Option<Untrusted>,
    /// The source file.
    pub file: Option<Untrusted>,
    /// The line in it.
    pub line: Option<u32>,
    /// The mapped file its code is in.
    pub module: Option<Untrusted>,
    /// Where in that file, in bytes.
    pub offset: Option<u64>,
    /// That file's build id.
    pub build_id: Option<Untrusted>,
    /// What it is.
    pub kind: FrameKind,
}

impl ShownOrigin {
    /// The origin of a zombie with this name.
    #[must_use]
    pub fn new(origin: &Origin, zombie: &Untrusted) -> Self {
        let Origin { quality, chain, stack, stack_of } = origin;
        Self {
            quality: *quality,
            site: Print::of(origin, zombie).id(),
            chain: chain.iter().map(ShownLink::from).collect(),
            stack: stack.as_deref().map(ShownStack::from),
            stack_of: *stack_of,
        }
    }

    /// The stack, where it tells of the leak and not only of where something was started.
    pub(super) fn stack_of_leak(&self) -> Option<&ShownStack> {
        self.stack.as_ref().filter(|_| !self.quality.has_no_stack())
    }

    /// What forked what, from the zombie upwards: `chrome ← chromedriver ← python3 crawl.py`. Who leaks is shown with its
    /// arguments, and who has the stack: an interpreter is known by them alone.
    pub(super) fn chain_text(&self, zombie: &Untrusted) -> String {
        let leaks = self.stack_of_leak().is_none().then_some(0);
        let is_told = |place| leaks == Some(place) || self.stack_of == Some(place);
        let links = self.chain.iter().enumerate().map(|(place, link)| match is_told(place) {
            true => link.command(),
            false => link.comm.to_string(),
        });
        upwards(zombie, links)
    }

    /// Where it leaks, in so many places on a terminal, as well as that is known: the frame to look at; without a stack, who
    /// forked whom, and where the topmost of those was started.
    pub(super) fn place(&self, zombie: &Untrusted, room: usize) -> String {
        let frame = self.stack.as_ref().and_then(ShownStack::place);
        match (frame, self.stack_of_leak()) {
            (Some(frame), Some(_)) => frame.within(room),
            (Some(frame), None) => {
                let below = self.chain.iter().take(self.stack_of.unwrap_or_default());
                let below = upwards(zombie, below.map(|link| link.comm.to_string()));
                let text = format!("{below} via {}", frame.short());
                cut(&text, room)
            }
            (None, _) => cut(&self.chain_text(zombie), room),
        }
    }

    /// How good it is, as a sentence.
    pub(super) fn quality_text(&self) -> String {
        let whose = |stack: &ShownStack| match self.stack_of.and_then(|of| self.chain.get(of)) {
            Some(link) => {
                let gone = if link.alive { "" } else { ", gone" };
                format!("{} stack of {} ({}{gone})", language(stack.language), link.comm, link.pid)
            }
            None => format!("{} stack", language(stack.language)),
        };
        let word = self.quality.as_str();
        if let (None, Some(stack), Some(of)) = (self.stack_of_leak(), &self.stack, self.stack_of) {
            let Some(alive) = self.chain.iter().take(of).find(|link| link.alive) else {
                return format!("{word}; started at: {}", whose(stack));
            };
            // Another one of those that live may be between.
            let started = self.chain.get(of.saturating_sub(1)).filter(|link| link.pid != alive.pid);
            let started = started.map_or_else(
                || "it".to_owned(),
                |link| format!("{} ({}), which that comes from,", link.comm, link.pid),
            );
            return format!(
                "{word}: no stack was taken of {} ({}), which lives; {started} was started at: {}",
                alive.comm,
                alive.pid,
                whose(stack)
            );
        }
        match (self.quality, &self.stack) {
            (Quality::Exact, Some(stack)) => format!("{word} {}", whose(stack)),
            (Quality::Approximate, Some(stack)) => {
                format!("{word} {}: something of it was guessed or may be missing", whose(stack))
            }
            (_, Some(stack)) => format!("{word}, {}", whose(stack)),
            (Quality::Predates, None) => format!("{word}: it was forked before anything was recorded"),
            (_, None) => format!("{word}: no stack was taken of any process of the chain"),
        }
    }

    /// [`Self::chain_text`], below a zombie's row.
    pub(super) fn chain_lines(&self, zombie: &Untrusted, width: usize) -> Vec<String> {
        wrap("  ", &self.chain_text(zombie), 4, width)
    }

    /// The lines below a zombie's: what forked what, how good that is, and the stack, the innermost frame first.
    pub(crate) fn lines(&self, zombie: &Untrusted, width: usize) -> Vec<String> {
        let mut lines = self.chain_lines(zombie, width);
        lines.extend(wrap("  ", &self.quality_text(), 4, width));
        lines.extend(self.stack.iter().flat_map(|stack| stack.lines(width)));
        lines
    }
}

impl ShownStack {
    /// A line for each frame, the one to look at first with a mark.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let frames = self.frames.iter().enumerate();
        let mut lines: Vec<_> = frames
            .map(|(number, frame)| {
                let mark = if self.place == Some(number) { '>' } else { ' ' };
                cut(&format!("  {mark} {}", frame.text()), width)
            })
            .collect();
        if self.cut {
            lines.push("    …".to_owned());
        }
        lines
    }

    /// The frame to look at first.
    pub(super) fn place(&self) -> Option<&ShownFrame> {
        self.frames.get(self.place?)
    }
}

impl ShownFrame {
    /// `function file:line`, and `module+0x1f` where its code has no name.
    pub(super) fn text(&self) -> String {
        self.with(|path| path)
    }

    /// The same with the last names of paths only.
    pub(super) fn short(&self) -> String {
        self.with(|path| path.rsplit('/').next().unwrap_or(path))
    }

    /// The same in so many places on a terminal. What is cut is the function's name: the line says more.
    pub(super) fn within(&self, width: usize) -> String {
        let whole = self.short();
        let (Some(function), Some(_)) = (&self.function, &self.file) else { return cut(&whole, width) };
        let (name, room) =
            (function.as_str(), width.saturating_sub(whole.width() - function.as_str().width()));
        match whole.strip_prefix(name) {
            Some(line) if whole.width() > width && room > 1 => cut(name, room) + line,
            Some(line) if whole.width() > width => cut(line.trim_start(), width),
            _ => whole,
        }
    }

    /// What its code is called.
    pub(super) fn name(&self) -> Untrusted {
        match &self.function {
            Some(function) => function.clone(),
            None => Untrusted::from_escaped(&self.code(|path| path)),
        }
    }

    fn with(&self, path: impl Fn(&str) -> &str + Copy) -> String {
        let name = match &self.function {
            Some(function) => function.to_string(),
            None => self.code(path),
        };
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{name} {}:{line}", path(file.as_str())),
            (Some(file), None) => format!("{name} {}", path(file.as_str())),
            (None, _) => match (&self.function, &self.module) {
                (Some(_), Some(module)) => format!("{name} ({})", path(module.as_str())),
                _ => name,
            },
        }
    }

    fn code(&self, path: impl Fn(&str) -> &str) -> String {
        match (&self.module, self.offset) {
            (Some(module), Some(offset)) => format!("{}+{offset:#x}", path(module.as_str())),
            (Some(module), None) => path(module.as_str()).to_owned(),
            (None, Some(offset)) => format!("?+{offset:#x}"),
            (None, None) => "?".to_owned(),
        }
    }
}

impl ShownLink {
    /// Its name and its arguments, where they are known: `python3 /srv/crawl.py`.
    fn command(&self) -> String {
        /// What is longer says nothing more.
        const WIDEST: usize = 60;
        let arguments = self.cmdline.as_ref().and_then(|line| line.as_str().split_once(' '));
        let text = match arguments {
            Some((_, arguments)) => format!("{} {arguments}", self.comm),
            None => self.comm.to_string(),
        };
        cut(&text, WIDEST)
    }
}

/// What is below first.
fn upwards(zombie: &Untrusted, links: impl Iterator<Item = String>) -> String {
    links.fold(zombie.to_string(), |text, link| text + " ← " + &link)
}

const fn language(language: Language) -> &'static str {
    match language {
        Language::Python => "Python",
        Language::Native => "native",
        Language::Mixed => "Python and native",
    }
}

impl From<&Link> for ShownLink {
    fn from(link: &Link) -> Self {
        let Link { process, comm, cmdline, alive } = link;
        Self {
            pid: process.pid,
            start_time: process.start,
            comm: comm.clone(),
            cmdline: cmdline.clone(),
            alive: *alive,
        }
    }
}

impl From<&Stack> for ShownStack {
    fn from(stack: &Stack) -> Self {
        let Stack { frames, language, cut } = stack;
        let place = stack.place();
        Self { language: *language, cut: *cut, place, frames: frames.iter().map(ShownFrame::from).collect() }
    }
}

impl From<&Frame> for ShownFrame {
    fn from(frame: &Frame) -> Self {
        let Frame { function, file, line, module, offset, build_id, kind } = frame;
        Self {
            function: function.clone(),
            file: file.clone(),
            line: *line,
            module: module.clone(),
            offset: *offset,
            build_id: build_id.as_deref().map(Untrusted::from),
            kind: *kind,
        }
    }
}

#[cfg(test)]
mod tests;
