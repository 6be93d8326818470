//! What the program prints.

use crate::UNREADABLE;
use std::io::{self, ErrorKind, Write};

/// Prints a report; gives the exit status that it has with it. A reader that has gone away does not change the verdict,
/// but a report that cannot be written must not pass for one that was.
pub fn print(report: &str, status: u8) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(report.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(&format!("cannot write the report: {error}"));
            UNREADABLE
        }
        _ => status,
    }
}

/// Prints why there is no report. Nobody can be told if that fails.
pub fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "pg_notary: {}", printable(message));
}

/// `text` without control characters, so that no file name writes lines of its own.
pub fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}
