//! Origins to test with: one of each quality, and one with every text as bad as it can be.

use std::sync::Arc;

use super::{Frame, FrameKind, Language, Link, Origin, Quality, Stack};
use crate::{
    identity::{BootTime, Identity},
    text::Untrusted,
};

fn link(pid: u32, comm: &str, cmdline: &str, alive: bool) -> Link {
    let process = Identity { pid, start: BootTime(u64::from(pid) * 1_000) };
    Link { process, comm: comm.into(), cmdline: Some(cmdline.into()), alive }
}

fn chain() -> Vec<Link> {
    vec![
        link(4600, "chromedriver", "chromedriver --port=9515", false),
        link(4500, "python3", "/usr/bin/python3 /srv/crawl.py --all", true),
        link(4400, "sh", "sh -c /srv/crawl.py", true),
    ]
}

fn python_frame(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        function: Some(function.into()),
        file: Some(file.into()),
        line: Some(line),
        kind: FrameKind::Python,
        ..Frame::default()
    }
}

pub(crate) fn python(line: u32) -> Stack {
    Stack {
        frames: vec![
            python_frame("Popen._execute_child", "/usr/lib/python3.11/subprocess.py", 1806),
            python_frame("Popen.__init__", "/usr/lib/python3.11/subprocess.py", 1024),
            python_frame("open_browser", "/srv/crawl.py", line),
            python_frame("<module>", "/srv/crawl.py", 90),
        ],
        language: Language::Python,
        cut: false,
    }
}

pub(crate) fn native() -> Stack {
    let frame = |function: Option<&str>, module: &str, offset| Frame {
        function: function.map(Untrusted::from),
        module: Some(module.into()),
        offset: Some(offset),
        build_id: Some("00ff12".to_owned()),
        ..Frame::default()
    };
    let leak = Frame {
        file: Some("/src/leak.c".into()),
        line: Some(12),
        ..frame(Some("leak_here"), "/opt/leak", 0x1234)
    };
    let frames = vec![
        frame(Some("__libc_fork"), "/usr/lib/x86_64-linux-gnu/libc.so.6", 0xd_4000),
        leak,
        frame(None, "/opt/leak", 0x1300),
    ];
    Stack { frames, language: Language::Native, cut: true }
}

/// A Python program leaked it at this line, two processes above.
pub(crate) fn exact(line: u32) -> Origin {
    Origin { quality: Quality::Exact, chain: chain(), stack: Some(Arc::new(python(line))), stack_of: Some(1) }
}

pub(crate) fn approximate() -> Origin {
    let chain = vec![link(4700, "leak", "/opt/leak", true)];
    Origin { quality: Quality::Approximate, chain, stack: Some(Arc::new(native())), stack_of: Some(0) }
}

pub(crate) fn lineage_only() -> Origin {
    Origin { quality: Quality::LineageOnly, chain: chain(), stack: None, stack_of: None }
}

/// A program that lives and leaks without a stack of its own; a Python program has started it.
pub(crate) fn started() -> Origin {
    let mut origin = exact(42);
    origin.quality = Quality::LineageOnly;
    origin.chain[0].alive = true;
    origin
}

pub(crate) fn predating() -> Origin {
    Origin { quality: Quality::Predates, chain: Vec::new(), stack: None, stack_of: None }
}

pub(crate) fn hostile() -> Origin {
    let bad = || Untrusted::new("\x1b[2J\u{202e}\n</b>;\"".as_bytes());
    let long = || Untrusted::new("进程\u{9b}\r\"\\'".repeat(40).as_bytes());
    let mut origin = exact(u32::MAX);
    for link in &mut origin.chain {
        (link.comm, link.cmdline) = (bad(), Some(long()));
    }
    for frame in origin.stack.iter_mut().flat_map(|stack| &mut Arc::make_mut(stack).frames) {
        (frame.function, frame.file, frame.module) = (Some(bad()), Some(long()), Some(bad()));
    }
    origin
}
