//! pg_notary lets a database prove what it recorded.
//!
//! | module | what it is |
//! |---|---|
//! | [`ledger`] | the domain: canonical JSON, hashes, signatures, Merkle trees, records, blocks, verification; pure |
//! | [`items`] | files that must not change or move unnoticed: their hashes and signature lines; pure |
//! | [`regular_file`] | opening files that others may have put there |
//! | `postgres` | the glue: settings, tables, worker, mirror, SQL functions; only with a `pgNN` feature |

pub mod items;
pub mod ledger;
pub mod regular_file;

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
mod postgres;
