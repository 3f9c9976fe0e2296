//! The frame that a person wants to see first. The innermost one is nearly always the language's own library on its way to the
//! kernel: what called that is what leaks.

use super::{Frame, FrameKind, Stack};

impl Stack {
    /// The innermost frame that is not of the language's own library, as an index; the innermost of all where every frame is.
    /// `None` where there is none.
    #[must_use]
    pub fn place(&self) -> Option<usize> {
        let own = self.frames.iter().position(|frame| !frame.is_library());
        own.or((!self.frames.is_empty()).then_some(0))
    }
}

impl Frame {
    /// Whether it belongs to the library that comes with the language or the system. Said by what things are called: it only
    /// decides which frame is shown first.
    #[must_use]
    pub fn is_library(&self) -> bool {
        let text = |text: &Option<crate::text::Untrusted>| text.clone().unwrap_or_default();
        match self.kind {
            FrameKind::Python => is_pythons(text(&self.file).as_str()),
            FrameKind::Jit => is_nodes(text(&self.function).as_str()),
            FrameKind::Native | FrameKind::Inlined => {
                is_system_module(text(&self.module).as_str())
                    || is_library_function(text(&self.function).as_str())
            }
        }
    }
}

/// Python's own modules: in `lib/python3.11/`, but not in its site-packages; or frozen into the interpreter.
fn is_pythons(file: &str) -> bool {
    if file.starts_with("<frozen ") {
        return true;
    }
    let Some((_, rest)) = ["/lib/python", "/lib64/python"].iter().find_map(|part| file.split_once(part))
    else {
        return false;
    };
    let Some((version, inside)) = rest.split_once('/') else { return false };
    version.starts_with('3')
        && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && !inside.starts_with("site-packages/")
        && !inside.starts_with("dist-packages/")
}

/// Node's own modules, as V8 names functions in a perf map: `JS:~spawn node:child_process:754:15`.
fn is_nodes(function: &str) -> bool {
    function.starts_with("JS:") && function.contains(" node:")
}

fn is_system_module(module: &str) -> bool {
    let name = module.rsplit('/').next().unwrap_or_default();
    ["libc.so", "libc-2.", "libpthread", "ld-linux", "ld-musl", "libc.musl", "[vdso]"]
        .iter()
        .any(|system| name.starts_with(system))
}

/// What forks for others, by name: libc's where it is linked statically, Rust's, Go's, Node's with libuv and V8.
fn is_library_function(function: &str) -> bool {
    const BEGINNINGS: [&str; 18] = [
        "std::",
        "<std::",
        "core::",
        "<core::",
        "alloc::",
        "<alloc::",
        "syscall.",
        "os/exec.",
        "os.StartProcess",
        "os.startProcess",
        "runtime.",
        "internal/",
        "uv_",
        "node::",
        "v8::",
        "Builtins_",
        "posix_spawn",
        "_IO_",
    ];
    const NAMES: [&str; 13] = [
        "fork",
        "vfork",
        "_Fork",
        "libc_fork",
        "libc_vfork",
        "clone",
        "clone3",
        "system",
        "do_system",
        "libc_system",
        "popen",
        "spawn_process",
        "spawni",
    ];
    let plain = function.trim_start_matches('_');
    BEGINNINGS.iter().any(|beginning| function.starts_with(beginning) || plain.starts_with(beginning))
        || NAMES.iter().any(|name| function == *name || plain == *name)
        || plain.starts_with("spawni")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Language, fixture};

    fn place(stack: &Stack) -> Option<&str> {
        let frame = stack.frames.get(stack.place()?)?;
        frame.function.as_ref().map(crate::text::Untrusted::as_str)
    }

    #[test]
    fn of_a_python_stack_the_line_that_called_the_library_is_shown() {
        assert_eq!(place(&fixture::python(42)), Some("open_browser"));
        for (file, library) in [
            ("/usr/lib/python3.11/subprocess.py", true),
            ("/root/.pyenv/versions/3.8.18/lib/python3.8/multiprocessing/popen_fork.py", true),
            ("<frozen runpy>", true),
            ("/usr/lib/python3/dist-packages/selenium/service.py", false),
            ("/venv/lib/python3.11/site-packages/selenium/service.py", false),
            ("/srv/lib/python/crawl.py", false),
            ("/srv/crawl.py", false),
            ("<string>", false),
            ("", false),
        ] {
            assert_eq!(is_pythons(file), library, "{file}");
        }
    }

    #[test]
    fn of_a_native_stack_the_function_that_called_libc_is_shown() {
        assert_eq!(place(&fixture::native()), Some("leak_here"));
        for (function, library) in [
            ("__libc_fork", true),
            ("_Fork", true),
            ("__spawnix", true),
            ("posix_spawnp", true),
            ("_IO_new_popen", true),
            ("<std::process::Command>::spawn", true),
            ("std::sys::process::unix::fork", true),
            ("os/exec.(*Cmd).Start", true),
            ("syscall.forkAndExecInChild1", true),
            ("uv__spawn_and_init_child_fork", true),
            (
                "node::(anonymous namespace)::ProcessWrap::Spawn(v8::FunctionCallbackInfo<v8::Value> const&)",
                true,
            ),
            ("v8::internal::Builtin_HandleApiCall(int, unsigned long*, v8::internal::Isolate*)", true),
            ("Builtins_CEntry_Return1_ArgvOnStack_BuiltinExit", true),
            ("main.leak", false),
            ("forkful", false),
            ("system_start", false),
            ("crawler::standard::spawn", false),
        ] {
            assert_eq!(is_library_function(function), library, "{function}");
        }
    }

    #[test]
    fn of_a_node_program_the_function_that_called_nodes_modules_is_shown() {
        for (function, library) in [
            ("JS:~ChildProcess.spawn node:internal/child_process:354:40", true),
            ("JS:*spawn node:child_process:754:15", true),
            ("JS:~openBrowser /srv/crawl.js:2:21", false),
            ("JS:^ /srv/node:18/crawl.js:1:1", false),
            ("Interpreter", false),
        ] {
            assert_eq!(is_nodes(function), library, "{function}");
        }
    }

    #[test]
    fn where_all_is_library_the_innermost_frame_is_shown() {
        let mut stack = fixture::python(42);
        stack.frames.retain(Frame::is_library);
        assert_eq!(stack.place(), Some(0));
        assert_eq!(Stack { frames: Vec::new(), language: Language::Python, cut: false }.place(), None);
    }
}
