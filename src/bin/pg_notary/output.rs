//! What the program prints.

use crate::{closed_output, UNREADABLE};
use pg_notary::ledger::shortened;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Prints a report; gives the exit status that it has with it. A reader that has gone away does not change the verdict,
/// but a report that cannot be written must not pass for one that was.
pub fn print(report: &str, status: u8) -> u8 {
    match write(report) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(&format!("cannot write the report: {error}"));
            UNREADABLE
        }
        _ => status,
    }
}

fn write(report: &str) -> io::Result<()> {
    if closed_output::was_closed() {
        return Err(io::Error::other("standard output is closed"));
    }
    let mut out = io::stdout().lock();
    out.write_all(report.as_bytes())?;
    out.flush()
}

/// Prints what is no part of a report: why there is none, or what the server says beside its answer. Nobody can be told
/// if that fails.
pub fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "pg_notary: {}", printable(message));
}

/// How much is printed of a name that a file states, which may be of any length.
const SHOWN_OF_NAME: usize = 80;

/// How much is printed of a path; enough for nearly all in full.
const SHOWN_OF_PATH: usize = 255;

/// The beginning of a name.
pub fn short_name(name: &str) -> String {
    shortened(name, SHOWN_OF_NAME)
}

/// The end of a path, which tells files apart.
pub fn short_path(path: &Path) -> String {
    let text = path.display().to_string();
    match text.char_indices().rev().nth(SHOWN_OF_PATH - 1) {
        Some((start, _)) if start > 0 => format!("…{}", &text[start..]),
        _ => text,
    }
}

/// `text` without control characters, so that no file name writes lines of its own.
pub fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_path_is_shown() {
        let long = "é/".repeat(128) + "x";
        assert_eq!(short_path(Path::new(&long[3..])), long[3..]);
        assert_eq!(short_path(Path::new(&long)), format!("…{}", &long[3..]));
    }
}
