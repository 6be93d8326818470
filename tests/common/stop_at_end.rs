//! Threads that work until the test has seen enough.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tells threads to stop when it is dropped, also where a panic ends the test: a scope waits for its threads, and a
/// test that has failed would hang.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
