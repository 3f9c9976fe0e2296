//! The frame that a person wants to see first. The innermost one is nearly always the language's own library on its way to the
//! kernel: what called that is what leaks.

use super::{Frame, FrameKind, Stack};

impl Stack {
    /// The innermost frame that is not of the language's own library, as an index; where every frame is, the innermost that is not the
    /// system's. `None` where there is none.
    #[must_use]
    pub fn place(&self) -> Option<usize> {
        let own = |frame: &&Frame| !frame.is_library();
        let node = self.node();
        let Some(module) = node.as_deref() else {
            return self.first(|frame| own(&frame)).or((!self.frames.is_empty()).then_some(0));
        };
        // Node's functions say more of a script than where Node itself begins, or an address in what V8 has compiled.
        self.first(|frame| own(&frame) && !frame.is_of_node(module) && !frame.says_nothing_of_a_script())
            .or_else(|| self.first(|frame| frame.is_of_node(module)))
    }

    fn first(&self, wanted: impl Fn(&Frame) -> bool) -> Option<usize> {
        self.frames.iter().position(wanted)
    }

    /// The file that Node is in, whatever it is called: V8's own compiled functions are in it, which no other program has.
    fn node(&self) -> Option<String> {
        let frame = self.frames.iter().find(|frame| frame.is_called("Builtins_"))?;
        frame.module.as_ref().map(|module| module.as_str().to_owned())
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

    /// Machine code of Node or V8, in their file: others may call theirs the same.
    fn is_of_node(&self, module: &str) -> bool {
        self.module.as_ref().is_some_and(|own| own.as_str() == module)
            && ["node::", "v8::", "Builtins_"].iter().any(|beginning| self.is_called(beginning))
    }

    fn is_called(&self, beginning: &str) -> bool {
        self.function.as_ref().is_some_and(|function| function.as_str().starts_with(beginning))
    }

    fn says_nothing_of_a_script(&self) -> bool {
        self.function.as_ref().is_none_or(|function| ["main", "_start"].contains(&function.as_str()))
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
    ["libc.so", "libc-2.", "libpthread", "ld-linux", "ld-musl", "libc.musl", "libuv.so", "[vdso]"]
        .iter()
        .any(|system| name.starts_with(system))
}

/// What forks for others, by name: libc's where it is linked statically, Rust's, Go's, libuv's.
fn is_library_function(function: &str) -> bool {
    const BEGINNINGS: [&str; 15] = [
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
        "uv__",
        "posix_spawn",
        "_IO_",
    ];
    const NAMES: [&str; 14] = [
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
        "uv_spawn",
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
            ("uv__spawn_and_init_child_fork", true),
            ("uv_spawn", true),
            ("os/exec.(*Cmd).Start", true),
            ("syscall.forkAndExecInChild1", true),
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

    /// Frames of machine code: the file's name and the function's, if it has one.
    fn machine_code(frames: &[(&str, Option<&str>)]) -> Stack {
        let frame = |(module, function): &(&str, Option<&str>)| Frame {
            module: Some((*module).into()),
            function: function.map(Into::into),
            ..Frame::default()
        };
        Stack { frames: frames.iter().map(frame).collect(), language: Language::Native, cut: false }
    }

    #[test]
    fn where_v8_names_nothing_the_function_of_node_that_forks_is_shown() {
        const SPAWN: &str =
            "node::(anonymous namespace)::ProcessWrap::Spawn(v8::FunctionCallbackInfo<v8::Value> const&)";
        let node = [
            ("/usr/lib/libc.so.6", Some("__libc_fork")),
            ("/usr/lib/libuv.so.1", Some("uv__spawn_and_init_child_fork")),
            ("/usr/lib/libnode.so.108", Some(SPAWN)),
            ("[anon]", None),
            ("/usr/lib/libnode.so.108", Some("Builtins_JSEntryTrampoline")),
            ("/usr/bin/node", Some("main")),
        ];
        assert_eq!(place(&machine_code(&node)), Some(SPAWN));
        // Whatever it is called.
        let packed = node.map(|(module, function)| (module.split("libnode").next().unwrap(), function));
        assert_eq!(place(&machine_code(&packed)), Some(SPAWN));
        // An addon's own function is what calls Node's.
        let addon = [node[1], ("/srv/addon.node", Some("open_browser")), node[4], node[5]];
        assert_eq!(place(&machine_code(&addon)), Some("open_browser"));
    }

    #[test]
    fn functions_of_others_that_are_called_as_nodes_are_their_own() {
        for function in ["node::service::start", "uv_unwrap_mesh", "v8::engine::start"] {
            let stack = machine_code(&[
                ("/lib/libc.so.6", Some("fork")),
                ("/srv/crawler", Some(function)),
                ("/srv/crawler", Some("main")),
            ]);
            assert_eq!(place(&stack), Some(function));
        }
        // libuv is used by others, too.
        let editor = [
            ("/usr/lib/libuv.so.1", Some("uv_spawn")),
            ("/usr/bin/editor", None),
            ("/usr/bin/editor", Some("main")),
        ];
        assert_eq!(machine_code(&editor).place(), Some(1));
        // Where a program of one's own forks in `main`, that is the place.
        assert_eq!(
            place(&machine_code(&[("/lib/libc.so.6", Some("fork")), ("/srv/crawler", Some("main"))])),
            Some("main")
        );
    }

    #[test]
    fn where_all_is_library_the_innermost_frame_is_shown() {
        let mut stack = fixture::python(42);
        stack.frames.retain(Frame::is_library);
        assert_eq!(stack.place(), Some(0));
        assert_eq!(Stack { frames: Vec::new(), language: Language::Python, cut: false }.place(), None);
    }
}
