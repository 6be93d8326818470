//! Builds short values for a row that is to be inserted, without an allocation for each.

use super::text_datum;
use pgrx::pg_sys;
use uuid::Uuid;

/// The short values of one row, as they are stored. They point into this buffer: they are valid as long as it exists
/// and is not moved.
pub struct ShortValues {
    bytes: [u8; 512],
    used: usize,
}

/// The longest varlena, its header of one byte included, that is stored with such a header.
const LONGEST_SHORT: usize = 0x7f;

impl ShortValues {
    pub fn new() -> ShortValues {
        ShortValues { bytes: [0; 512], used: 0 }
    }

    pub fn uuid(&mut self, uuid: &Uuid) -> Option<pg_sys::Datum> {
        let room = self.bytes.get_mut(self.used..self.used + uuid.as_bytes().len())?;
        room.copy_from_slice(uuid.as_bytes());
        self.used += room.len();
        Some(room.as_ptr().into())
    }

    /// Adds a value. One that is too long, or for which no room is left, is put into the current memory context.
    pub fn text(&mut self, text: &str) -> Option<pg_sys::Datum> {
        let length = 1 + text.len();
        let room = self.bytes.get_mut(self.used..self.used + length).filter(|room| room.len() <= LONGEST_SHORT);
        let Some(room) = room else { return text_datum(text) };
        // SAFETY: `room` takes the header and the text. A varlena with a header of one byte needs no alignment.
        unsafe { pgrx::set_varsize_1b(room.as_mut_ptr().cast(), length as i32) }
        room[1..].copy_from_slice(text.as_bytes());
        self.used += length;
        Some(room.as_ptr().into())
    }
}
