//! How long a process waits for another one before it gives up.

use std::time::{Duration, Instant};

/// The most that one look counts. No process sleeps longer between two looks.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// A limit on the time that a process waits. Only time in which it looks again and again counts: while the machine or
/// the container was suspended, the process that is waited for has not run either, and gets its time afterwards.
pub struct Timeout {
    left: Duration,
    looked: Instant,
}

impl Timeout {
    pub fn after(limit: Duration) -> Self {
        Timeout { left: limit, looked: Instant::now() }
    }

    /// Counts the time since the last look, and says whether none is left.
    pub fn is_over(&mut self) -> bool {
        let now = Instant::now();
        self.left = self.left.saturating_sub((now - self.looked).min(LONGEST_STEP));
        self.looked = now;
        self.left.is_zero()
    }
}
