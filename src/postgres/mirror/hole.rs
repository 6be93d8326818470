//! Cuts off the hole that a loss of power leaves at the end of the file: see [`crate::ledger::file_hole`].

use super::file::{self, Trouble};
use super::handle::Mirror;
use crate::ledger::file_hole::line_before_hole;
use pgrx::check_for_interrupts;
use std::fs::File;
use std::path::Path;

/// Cuts off a hole, and what stands behind it. The database has all of that too, and it is appended again, or it was
/// rolled back. Only behind the first `on_disk` bytes, which a loss of power cannot take away, and only when this
/// server opens the file for the first time: zeros elsewhere were written by somebody.
pub fn cut_off(mirror: &Mirror, file: &File, path: &Path, on_disk: u64) -> Result<(), Trouble> {
    if mirror.lock().was_attached {
        return Ok(());
    }
    let between = || {
        check_for_interrupts!();
    };
    let found = line_before_hole(file, on_disk, between).map_err(|error| Trouble::passing("read", path, error))?;
    let Some(end) = found else { return Ok(()) };
    file::cut(file, path, end)?;
    pgrx::log!(
        "pg_notary has cut mirror file \"{}\" back to {end} bytes and appends the rest again: zeros followed, which a \
         loss of power leaves where it has undone a write",
        path.display()
    );
    Ok(())
}
