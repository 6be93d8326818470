//! What happens if Rust code gets no memory, as with `vm.overcommit_memory = 2`. Rust would abort the process, and
//! Postgres would restart all sessions. Here only this session ends, with FATAL, in which Postgres ends all that a
//! session cannot survive. An ERROR is not possible: it would unwind out of the allocator, which must never unwind.
//!
//! FATAL does not return. Postgres' callbacks at exit run above the frames that wanted the memory, as they do in a
//! session that is terminated.

use super::errors::Failure;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, LocalKey};
use std::time::Duration;

/// How long a helper thread waits for the main thread to end the process. If it does not, because it waits for this
/// very thread, the process is aborted.
const MAIN_THREAD_PATIENCE: Duration = Duration::from_secs(5);

#[global_allocator]
static ALLOCATOR: EndsSession = EndsSession;

thread_local! {
    /// This is the thread that Postgres runs in. Forked processes inherit the value.
    static IS_MAIN: Cell<bool> = const { Cell::new(false) };
    /// Who asks for memory now can do without it.
    static IS_OPTIONAL: Cell<bool> = const { Cell::new(false) };
}

/// The size of what a helper thread wanted and did not get; 0 for none.
static WANTED_BY_HELPER: AtomicUsize = AtomicUsize::new(0);

// Declared here because pgrx's own declarations catch errors, and to catch one needs memory.
extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(code: c_int) -> c_int;
    fn errmsg(format: *const c_char, ...) -> c_int;
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

pub fn init() {
    IS_MAIN.set(true);
}

/// Makes room for as much as a document takes, or raises an ERROR.
pub fn reserve(buffer: &mut Vec<u8>, more: usize) {
    if !try_reserve(buffer, more) {
        Failure::new(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory")
            .detail(format!("Failed on request of size {more} in pg_notary."))
            .raise();
    }
}

/// Makes room for a caller that can do without it; false if there is none.
pub fn try_reserve<T>(buffer: &mut Vec<T>, more: usize) -> bool {
    IS_OPTIONAL.set(true);
    let reserved = buffer.try_reserve(more);
    IS_OPTIONAL.set(false);
    reserved.is_ok()
}

/// Ends the session if a helper thread has got no memory. The main thread calls this while it waits for helpers.
pub fn check_helpers() {
    let wanted = WANTED_BY_HELPER.load(Ordering::Relaxed);
    if wanted != 0 {
        end_session(wanted);
    }
}

/// Calls `work` with what a cell holds for its transaction, for the callbacks at the end of that. A session that ends
/// for lack of memory may have borrowed the cell when it asked for more, and never gives the borrow back. Then nothing
/// is done: what the cell holds ends with the process. An error instead would end the abort half way, and leave locks
/// and pins behind that hold up all others.
pub fn at_end_of_transaction<T>(cell: &'static LocalKey<RefCell<T>>, work: impl FnOnce(&mut T)) {
    cell.with(|cell| match cell.try_borrow_mut() {
        Ok(mut held) => work(&mut held),
        // SAFETY: reads a flag of this process.
        Err(_) if unsafe { pg_sys::proc_exit_inprogress } => {}
        Err(_) => unreachable!("borrowed at the end of a transaction"),
    })
}

/// The system's allocator, which ends the session instead of returning null.
struct EndsSession;

// SAFETY: the system's allocator does the work. What is added never unwinds: it returns null, or does not return.
unsafe impl GlobalAlloc for EndsSession {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        checked(System.alloc(layout), layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        checked(System.alloc_zeroed(layout), layout.size())
    }

    unsafe fn realloc(&self, allocated: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        checked(System.realloc(allocated, layout, size), size)
    }

    unsafe fn dealloc(&self, allocated: *mut u8, layout: Layout) {
        System.dealloc(allocated, layout)
    }
}

#[inline]
fn checked(allocated: *mut u8, size: usize) -> *mut u8 {
    if allocated.is_null() {
        failed(size);
    }
    allocated
}

/// Returns where there is somebody to tell, and where the process has to be aborted.
#[cold]
fn failed(size: usize) {
    if IS_OPTIONAL.try_with(Cell::get).unwrap_or(false) {
        return;
    }
    // A thread whose storage is gone already is not the main thread.
    if IS_MAIN.try_with(Cell::get).unwrap_or(false) {
        end_session(size);
    } else {
        WANTED_BY_HELPER.store(size, Ordering::Relaxed);
        thread::sleep(MAIN_THREAD_PATIENCE);
    }
}

/// Does not return, unless the process is no session or is ending already: memory that is missing in a callback at exit
/// would leave locks in shared memory.
fn end_session(size: usize) {
    // SAFETY: in the main thread. FATAL leaves by proc_exit(), which returns to none of the frames below; in a critical
    // section Postgres makes it a PANIC. The formats are NUL-terminated and have the arguments that follow.
    unsafe {
        if !pg_sys::IsUnderPostmaster || pg_sys::proc_exit_inprogress {
            return;
        }
        if errstart(pg_sys::FATAL as c_int, std::ptr::null()) {
            errcode(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int);
            errmsg(c"out of memory".as_ptr());
            errdetail(c"Failed on request of size %zu in pg_notary.".as_ptr(), size);
            errhint(c"Only this process ends; the server goes on. See vm.overcommit_memory and the server's ulimit -v, or record smaller values.".as_ptr());
            errfinish(c"memory.rs".as_ptr(), line!() as c_int, c"end_session".as_ptr());
        }
    }
}
