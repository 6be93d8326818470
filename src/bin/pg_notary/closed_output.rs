//! Whether the program was started with its standard output closed.
//!
//! Before main(), Rust opens /dev/null in place of what is closed. From then on a report that nobody gets looks like
//! one that was written, so this is found out even before that.

use rustix::io::{fcntl_getfd, Errno};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

pub fn was_closed() -> bool {
    WAS_CLOSED.load(Ordering::Relaxed)
}

extern "C" fn look() {
    WAS_CLOSED.store(fcntl_getfd(io::stdout()) == Err(Errno::BADF), Ordering::Relaxed);
}

// SAFETY: the system calls what this section lists, once, before main() and in the only thread; what it passes may be
// ignored. `look` is such a function. It cannot panic, and needs nothing that Rust sets up before main().
#[used]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static LOOK: extern "C" fn() = look;
