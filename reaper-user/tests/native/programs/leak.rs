// Forks a child in the way that its argument names, in leak_here, and then waits to be killed.
use std::{ffi::c_char, hint::black_box, process::Command};

unsafe extern "C" {
    fn fork() -> i32;
    fn vfork() -> i32;
    fn _exit(code: i32) -> !;
    fn system(command: *const c_char) -> i32;
    fn popen(command: *const c_char, mode: *const c_char) -> *mut u8;
}

#[inline(never)]
fn leak_here(how: &str) {
    match how {
        "fork" => unsafe {
            if fork() == 0 { // fork
                _exit(0);
            }
        },
        "vfork" => unsafe {
            if vfork() == 0 { // vfork
                _exit(0);
            }
        },
        "posix_spawn" => {
            black_box(Command::new("/bin/true").spawn().is_ok()); // posix_spawn
        }
        "system" => {
            black_box(unsafe { system(c"exit 0".as_ptr()) }); // system
        }
        _ => {
            black_box(unsafe { popen(c"exit 0".as_ptr(), c"r".as_ptr()) }); // popen
        }
    }
    black_box(());
}

#[inline(never)]
fn through(how: &str, depth: usize) {
    if black_box(depth) > 0 {
        through(how, depth - 1);
    } else {
        leak_here(how);
    }
    black_box(());
}

fn main() {
    through(&std::env::args().nth(1).unwrap(), 3);
    loop {
        std::thread::park();
    }
}
