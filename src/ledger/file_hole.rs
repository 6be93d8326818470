//! A hole: zeros at the end of a file, perhaps with lines behind them. A loss of power leaves it. The file system may
//! have put a later write on disk before an earlier one, and the file's new length before either; what is missing then
//! reads as zeros. The order of writes is known only up to the last sync that has succeeded.

use std::io::{BufRead, BufReader, Read, Result, Seek, SeekFrom};

/// File systems leave out whole sectors or more, so a hole ends with one, or with the file.
const SECTOR: u64 = 512;
const PIECE: usize = 1 << 20;

/// Where the last whole line before the first hole behind `from` ends, if there is a hole. A line ends at `from`. Calls
/// `between` once for each megabyte.
pub fn line_before_hole(mut file: impl Read + Seek, from: u64, between: impl Fn()) -> Result<Option<u64>> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::with_capacity(PIECE, file);
    let (mut at, mut line_end) = (from, from);
    loop {
        between();
        let piece = reader.fill_buf()?;
        let text = piece.iter().position(|byte| *byte == 0).unwrap_or(piece.len());
        if let Some(newline) = piece[..text].iter().rposition(|byte| *byte == b'\n') {
            line_end = at + newline as u64 + 1;
        }
        if piece.is_empty() {
            return Ok(None);
        }
        let is_text = text == piece.len();
        reader.consume(text);
        at += text as u64;
        if !is_text {
            at += skip_zeros(&mut reader)?;
            let is_hole = at.is_multiple_of(SECTOR) || reader.fill_buf()?.is_empty();
            return Ok(is_hole.then_some(line_end));
        }
    }
}

/// Returns how many there were.
fn skip_zeros(reader: &mut impl BufRead) -> Result<u64> {
    let mut skipped = 0;
    loop {
        let piece = reader.fill_buf()?;
        let zeros = piece.iter().position(|byte| *byte != 0).unwrap_or(piece.len());
        if zeros == 0 {
            return Ok(skipped);
        }
        reader.consume(zeros);
        skipped += zeros as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const LINE: &[u8] = b"{\"record_type\":\"entry\"}\n";

    /// Lines, one that is begun, zeros up to that offset, and more lines.
    fn with_zeros(lines: usize, zeros_to: usize, behind: &[u8]) -> Vec<u8> {
        let mut file = LINE.repeat(lines);
        file.extend_from_slice(&LINE[..10]);
        assert!(zeros_to >= file.len());
        file.resize(zeros_to, 0);
        file.extend_from_slice(behind);
        file
    }

    #[track_caller]
    fn assert_found(file: &[u8], from: usize, expected: Option<usize>) {
        let found = line_before_hole(Cursor::new(file), from as u64, || ()).unwrap();
        assert_eq!(found, expected.map(|end| end as u64));
    }

    #[test]
    fn a_hole_begins_after_the_last_whole_line_before_zeros() {
        let before = 3 * LINE.len();
        assert_found(&with_zeros(3, 2048, &LINE.repeat(5)), LINE.len(), Some(before));
        assert_found(&with_zeros(3, 2048, &LINE.repeat(5)), before, Some(before));
        assert_found(&with_zeros(0, 512, LINE), 0, Some(0));
        // Behind it is another.
        let two = with_zeros(3, 1024, &with_zeros(1, 512, LINE));
        assert_found(&two, LINE.len(), Some(before));
    }

    #[test]
    fn zeros_up_to_the_end_are_a_hole_wherever_it_is() {
        assert_found(&with_zeros(3, 1000, b""), LINE.len(), Some(3 * LINE.len()));
        assert_found(&[LINE, b"\0"].concat(), LINE.len(), Some(LINE.len()));
    }

    #[test]
    fn zeros_that_end_within_a_sector_are_none() {
        assert_found(&with_zeros(3, 1000, LINE), LINE.len(), None);
        assert_found(&with_zeros(3, 1025, LINE), LINE.len(), None);
    }

    #[test]
    fn a_file_without_zeros_behind_what_is_on_disk_has_none() {
        assert_found(&LINE.repeat(3), 0, None);
        assert_found(&LINE.repeat(3), 3 * LINE.len(), None);
        assert_found(&with_zeros(3, 512, LINE), 512, None);
    }

    #[test]
    fn lines_and_holes_larger_than_a_piece_are_found() {
        let lines = 2 * PIECE / LINE.len();
        let before = lines * LINE.len();
        assert_found(&with_zeros(lines, 5 * PIECE, &LINE.repeat(3)), LINE.len(), Some(before));
        let long = [LINE, &vec![b'x'; 3 * PIECE], &vec![0; PIECE]].concat();
        assert_found(&long, LINE.len(), Some(LINE.len()));
    }
}
