//! A jsonb of Postgres as bytes: its canonical text from them, and they from a canonical text.
//!
//! Metadata is stored as a jsonb, and stated in lines as canonical JSON. By way of jsonb's own text, each way would be
//! printing, parsing and printing again, for every entry that is recorded, sealed or verified.

mod canonical;
mod encode;
mod layout;
mod read;

#[cfg(test)]
mod tests;

pub use canonical::{members, write_canonical, Found, Written};
pub use encode::{encode, encode_object};
#[cfg(test)]
pub(crate) use layout::VARLENA_HEADER;
pub use read::is_sound;
