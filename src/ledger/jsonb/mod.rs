//! The bytes of a Postgres jsonb: makes canonical text from them, and them from canonical text.
//!
//! Metadata is stored as a jsonb, and stated in lines as canonical JSON. By way of jsonb's own text, each conversion
//! would print, parse and print again, for every entry that is recorded, sealed or verified.

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
