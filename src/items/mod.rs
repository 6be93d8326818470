//! Items: files that must not change or move unnoticed before they are used. Pure: no Postgres, no unsafe code, no I/O.
//!
//! An item's integrity hash covers what it says, its id, its version and its place; its signature line carries that
//! hash in the file itself. Anyone can make such a line, so the ledger has the last word on a registered item.
//!
//! | module | what it is |
//! |---|---|
//! | [`item_type`], [`item`] | what an item is: its type; its id, version, text |
//! | [`error`] | why an item cannot be hashed |
//! | [`location`] | the path of an item below the base of its type |
//! | [`comment_style`] | how a language writes a comment |
//! | [`signature_line`] | the signature line: finding, removing and replacing it |
//! | [`directive`] | the XML of a directive |
//! | [`front_matter`] | the YAML at the top of knowledge |
//! | [`tool_version`] | the version that a tool states |
//! | [`attributes`] | what an item's own text says of it |
//! | [`payload`] | what is hashed, byte for byte |
//! | [`signer`] | signing |
//! | [`registration`] | what the ledger records of an item |
//! | [`lists`] | items in JSON, as callers give them |
//! | [`comparison`] | files outside the database, as the registry is asked about them, and how they differ from it |
//! | [`verifier`] | telling an intact item from a changed, moved or unsigned one |
#![forbid(unsafe_code)]

pub mod attributes;
pub mod comment_style;
pub mod comparison;
pub mod directive;
pub mod error;
pub mod front_matter;
pub mod item;
pub mod item_type;
pub mod lists;
pub mod location;
pub mod payload;
pub mod registration;
pub mod signature_line;
pub mod signer;
pub mod tool_version;
pub mod verifier;

#[cfg(test)]
mod tests;

pub use error::{ContentError, ItemError};
pub use item::Item;
pub use item_type::ItemType;
pub use location::Place;
