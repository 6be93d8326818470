//! The little of the frontend/backend protocol that the client library keeps to itself: statements in a pipeline.

use super::Cluster;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A session that chooses for itself when to send Sync.
pub struct Wire(UnixStream);

impl Wire {
    /// Connects as the superuser.
    pub fn connect(cluster: &Cluster, database: &str) -> Wire {
        let mut wire = Wire(UnixStream::connect(cluster.socket()).unwrap());
        // Protocol 3.0.
        let mut startup = vec![0, 3, 0, 0];
        for text in ["user", "postgres", "database", database, ""] {
            startup.extend_from_slice(text.as_bytes());
            startup.push(0);
        }
        wire.0.write_all(&framed(&startup)).unwrap();
        wire.answer(b'Z').unwrap();
        wire
    }

    /// Sends the statements and then one Sync. Returns how many were completed, or the SQLSTATE of the first error.
    pub fn pipeline(&mut self, statements: &[&str]) -> Result<usize, String> {
        self.send(statements, b'S');
        self.answer(b'Z')
    }

    /// Sends the statements without a Sync, and waits until all are completed.
    pub fn pipeline_without_sync(&mut self, statements: &[&str]) -> Result<usize, String> {
        // A statement that is closed answers behind all others.
        self.send(statements, b'C');
        self.answer(b'3')
    }

    fn send(&mut self, statements: &[&str], end: u8) {
        let mut bytes = Vec::new();
        for sql in statements {
            // Parse into the unnamed statement, no parameter types; Bind to the unnamed portal, no parameters; Execute
            // all.
            bytes.extend(message(b'P', format!("\0{sql}\0\0\0").as_bytes()));
            bytes.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
            bytes.extend(message(b'E', b"\0\0\0\0\0"));
        }
        if end == b'S' {
            bytes.extend(message(b'S', b""));
        } else {
            // Close the unnamed statement, and Flush.
            bytes.extend(message(b'C', b"S\0"));
            bytes.extend(message(b'H', b""));
        }
        self.0.write_all(&bytes).unwrap();
    }

    /// Reads up to a message of this type. Counts completed statements.
    fn answer(&mut self, last: u8) -> Result<usize, String> {
        let (mut completed, mut first_error) = (0, None);
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length - 4];
            self.0.read_exact(&mut body).unwrap();
            match head[0] {
                b'C' => completed += 1,
                b'E' => {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    let state = text.split('\0').find_map(|field| field.strip_prefix('C'));
                    first_error.get_or_insert(state.expect("an error has an SQLSTATE").to_owned());
                }
                _ => {}
            }
            if head[0] == last {
                return first_error.map_or(Ok(completed), Err);
            }
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(framed(body));
    bytes
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}
