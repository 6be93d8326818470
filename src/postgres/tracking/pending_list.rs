//! Which rows the pending entries are about, and where they stand: for a session that looks up many rows.
//!
//! One look-up passes through all pending entries, and that is cheap for one row. A query that verifies n rows would
//! pass through them n times. So the second look-up that sees the same makes a list in its pass, by which it and
//! further ones find their rows.

use crate::ledger::record::Timestamp;
use crate::postgres::memory::{at_end_of_transaction, try_reserve};
use crate::postgres::pending_scan;
use crate::postgres::relation;
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Row, SnapshotContent, Table};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;
use uuid::Uuid;

/// How many snapshots there is something known of: a query's own, and one of a query that it calls for each row, or the
/// newest, by which a row is judged that its own does not explain.
const SNAPSHOTS: usize = 2;

/// The room that a list begins with.
const FIRST_ROOM: usize = 1024;

/// A pending entry about a row. There are two of an entry that gave a row another key.
pub struct Place {
    /// The first half of the row's id, which is a hash.
    row: u64,
    pub created_at: Timestamp,
    pub tid: pg_sys::ItemPointerData,
}

/// The pending entries about rows, ordered by row, and those about one row by time.
pub struct PendingList(Vec<Place>);

/// What a list was made from. The table was not rewritten since, so places in it are the same; see [`SnapshotContent`]
/// for why the entries are still there.
#[derive(PartialEq, Eq)]
struct Source {
    seen: SnapshotContent,
    file: pg_sys::Oid,
}

#[derive(Clone)]
enum Known {
    /// One look-up has passed through the entries, and noted nothing.
    Nothing,
    List(Rc<PendingList>),
    /// The entries are too many for a list.
    TooMany,
}

thread_local! {
    /// The last used comes first.
    static KNOWN: RefCell<Vec<(Source, Known)>> = const { RefCell::new(Vec::new()) };
}

/// The list for this snapshot, of `ledger.entries_pending`; `None` if the caller is to pass through the entries: for
/// the first row, and if there are too many of them.
pub fn of(table: &Table, snapshot: &RegisteredSnapshot) -> Option<Rc<PendingList>> {
    let source = Source { seen: SnapshotContent::of(snapshot)?, file: relation::file_node(table) };
    match KNOWN.with_borrow_mut(|known| recall(known, source))? {
        Known::List(list) => Some(list),
        Known::TooMany => None,
        Known::Nothing => {
            let list = PendingList::read(table, snapshot).map(Rc::new);
            let known = list.clone().map_or(Known::TooMany, Known::List);
            KNOWN.with_borrow_mut(|all| {
                if let Some(first) = all.first_mut() {
                    first.1 = known;
                }
            });
            list
        }
    }
}

/// Moves what is known to the first place, or notes that there was a look-up.
fn recall(known: &mut Vec<(Source, Known)>, source: Source) -> Option<Known> {
    if let Some(at) = known.iter().position(|(of, _)| *of == source) {
        known[..=at].rotate_right(1);
        return known.first().map(|(_, known)| known.clone());
    }
    known.truncate(SNAPSHOTS - 1);
    known.insert(0, (source, Known::Nothing));
    None
}

/// The transaction has ended, or rolled back a subtransaction: the same content may see something else. Cannot fail.
pub fn forget() {
    at_end_of_transaction(&KNOWN, Vec::clear);
}

impl PendingList {
    /// Reads all that is pending. `None` if the list would take too much memory.
    fn read(table: &Table, snapshot: &RegisteredSnapshot) -> Option<PendingList> {
        let (mut places, mut has_room) = (Vec::new(), true);
        pending_scan::each(table, snapshot, |tuple, entry| {
            // SAFETY: the scan's tuple is valid until the next one is fetched.
            let tid = unsafe { (*tuple).t_self };
            for row_id in rows_of(entry).into_iter().flatten() {
                has_room = has_room && make_room(&mut places);
                if has_room {
                    let created_at = entry.timestamp(entry_column::CREATED_AT).unwrap_or_default();
                    places.push(Place { row: half_of(row_id), created_at, tid });
                }
            }
            has_room
        });
        places.sort_unstable_by_key(|place| (place.row, place.created_at));
        has_room.then_some(PendingList(places))
    }

    /// The entries about the row, the oldest first, and perhaps others.
    pub fn about(&self, row_id: Uuid) -> &[Place] {
        let row = half_of(row_id);
        let from = self.0.partition_point(|place| place.row < row);
        let count = self.0[from..].partition_point(|place| place.row == row);
        &self.0[from..from + count]
    }
}

fn half_of(row_id: Uuid) -> u64 {
    row_id.as_u64_pair().0
}

/// Makes room for one more. False if all lists together could then take more than `maintenance_work_mem`, or if there
/// is no memory.
fn make_room(places: &mut Vec<Place>) -> bool {
    let room = places.capacity();
    if places.len() < room {
        return true;
    }
    let more = room.max(FIRST_ROOM);
    // SAFETY: reads a setting of this session.
    let limit = unsafe { pg_sys::maintenance_work_mem } as usize * 1024 / SNAPSHOTS;
    // While a list moves to where there is more room, it is there twice.
    (room + room + more) * size_of::<Place>() <= limit && try_reserve(places, more)
}

/// The rows that the pending entry is about, and not an item.
fn rows_of(entry: &Row) -> [Option<Uuid>; 2] {
    match tables::is_about_rows(entry) {
        true => tables::row_ids(entry),
        false => [None, None],
    }
}
