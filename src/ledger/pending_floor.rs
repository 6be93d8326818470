//! Before which page of the pending table nothing is pending.
//!
//! While an old snapshot is held, nothing can remove what sealing has left in that table, neither its rows nor their
//! index entries. Whoever looks for the few entries that are pending would read all of it each time.

use std::sync::atomic::{AtomicU64, Ordering};

/// The floor: all rows on pages before it are gone. It lies in shared memory, and is all zeros at first: no page is
/// skipped.
///
/// One process at a time raises it, and any number of sessions insert rows meanwhile, on any page. Each notes the page
/// after it has inserted the row. Either the process that raises the floor finds the row when it reads the page, or the
/// note comes after it has begun, and then counts against the floor that it is about to set.
#[repr(transparent)]
#[derive(Default)]
pub struct PendingFloor(AtomicU64);

/// The floor, and the lowest page that was noted since the process that raises it has begun. They change together.
#[derive(Clone, Copy)]
struct Pages {
    floor: u32,
    noted: u32,
}

impl Pages {
    fn of(packed: u64) -> Pages {
        Pages { floor: (packed >> 32) as u32, noted: packed as u32 }
    }

    fn packed(self) -> u64 {
        u64::from(self.floor) << 32 | u64::from(self.noted)
    }
}

impl PendingFloor {
    /// No row that is pending stands on a page before this one.
    pub fn page(&self) -> u32 {
        Pages::of(self.0.load(Ordering::SeqCst)).floor
    }

    /// Notes that a row was inserted on this page. To be called before its transaction reads the table or commits.
    pub fn note(&self, page: u32) {
        self.change(|pages| Pages { floor: pages.floor.min(page), noted: pages.noted.min(page) });
    }

    /// Begins to raise the floor. Pages are to be read after this.
    pub fn begin(&self) {
        self.change(|pages| Pages { noted: u32::MAX, ..pages });
    }

    /// Raises the floor to the first page on which a row was found, or lower if rows were inserted meanwhile.
    pub fn raise(&self, found: u32) {
        self.change(|pages| Pages { floor: found.min(pages.noted), ..pages });
    }

    /// Skips no page: the table was rewritten, or is another one.
    pub fn reset(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// An insert on a page that the floor does not concern writes nothing, so that sessions do not take the cache line
    /// from each other.
    fn change(&self, to: impl Fn(Pages) -> Pages) {
        let changed = |packed| Some(to(Pages::of(packed)).packed()).filter(|changed| *changed != packed);
        // An error says that there is nothing to change.
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_rises_to_the_first_page_found() {
        let floor = PendingFloor::default();
        floor.note(7);
        floor.begin();
        floor.raise(40);
        assert_eq!(floor.page(), 40);
    }

    #[test]
    fn a_row_inserted_while_the_floor_is_raised_counts_against_it() {
        let floor = PendingFloor::default();
        floor.begin();
        floor.note(7);
        floor.raise(40);
        assert_eq!(floor.page(), 7);
    }

    #[test]
    fn a_row_inserted_below_the_floor_lowers_it() {
        let floor = PendingFloor::default();
        floor.begin();
        floor.raise(40);
        floor.note(90);
        assert_eq!(floor.page(), 40);
        floor.note(7);
        assert_eq!(floor.page(), 7);
        floor.begin();
        floor.raise(40);
        assert_eq!(floor.page(), 40);
    }
}
