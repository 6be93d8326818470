//! Queries that find nothing in a sound ledger, and any number of rows in one that was tampered with.

use crate::postgres::spi::{self, Parameter};
use crate::postgres::tables::Row;

/// Rows that are in memory at the same time.
const PAGE: i64 = 50_000;

/// Calls `each` with each row of a query. Its last two parameters are those of LIMIT and OFFSET, and its order is fixed.
pub fn for_each(query: &'static str, parameters: &[Parameter], mut each: impl FnMut(&Row)) {
    let mut seen = 0;
    loop {
        let mut rows = 0;
        let page = [Parameter::from(PAGE), Parameter::from(seen)];
        spi::for_each(query, &[parameters, &page].concat(), |row| {
            rows += 1;
            each(row);
        });
        seen += rows;
        if rows < PAGE {
            return;
        }
    }
}
