//! Queries that find nothing in a sound ledger, and any number of rows in one that was tampered with.

use crate::postgres::spi::{self, Argument};
use crate::postgres::tables::Row;

/// Rows that are in memory at the same time.
const PAGE: i64 = 50_000;

/// Calls `each` with each row of a query. Its last two arguments are those of LIMIT and OFFSET, and its order is fixed.
pub fn for_each(query: &'static str, arguments: &[Argument], mut each: impl FnMut(&Row)) {
    let mut seen = 0;
    loop {
        let mut rows = 0;
        let page = [Argument::from(PAGE), Argument::from(seen)];
        spi::for_each(query, &[arguments, &page].concat(), |row| {
            rows += 1;
            each(row);
        });
        seen += rows;
        if rows < PAGE {
            return;
        }
    }
}
