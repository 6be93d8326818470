//! Opens a ledger file, and says what a file is that is none.

use pg_notary::ledger::record::{Header, FORMAT, MAX_HEADER};
use pg_notary::regular_file;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

/// How some files begin that are no ledger files, each with what to do.
const OTHERS: [(&[u8], &str); 4] = [
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first (gunzip -k)"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it first (unzstd)"),
    (b"\xff\xfe", "it is UTF-16: a program has converted it, so copy the original again"),
    (b"\xfe\xff", "it is UTF-16: a program has converted it, so copy the original again"),
];

/// Opens a file that can be read more than once, and that is not of a later format.
pub fn open(path: &Path) -> Result<File, String> {
    let file = regular_file::open_any(path).map_err(|error| error.to_string())?;
    let kind = file.metadata().map_err(|error| error.to_string())?;
    if kind.is_dir() {
        return Err("is a directory: name the .jsonl file in it".to_owned());
    }
    if !kind.is_file() {
        return Err("is not a regular file. It is read more than once: save it to a file first".to_owned());
    }
    if kind.len() == 0 {
        return Err("the file is empty".to_owned());
    }
    match Header::later_format(&file).map_err(|error| error.to_string())? {
        Some(format) => Err(format!(
            "it has format {format}, and this program knows only format {FORMAT}: take the pg_notary of a later version"
        )),
        None => Ok(file),
    }
}

/// What a file is that has no line of a ledger; `found` is what verification says of its beginning.
pub fn describe(mut file: &File, found: &str) -> String {
    let mut start = Vec::new();
    let read = file.rewind().and_then(|()| file.take(MAX_HEADER).read_to_end(&mut start));
    let known = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, what)| *what);
    let is_converted = || start.split(|byte| *byte == b'\n').next().is_some_and(|line| line.ends_with(b"\r"));
    match known {
        Some(what) => format!("not a ledger file: {what}"),
        None if read.is_ok() && is_converted() => {
            "not a ledger file: its lines end with CR LF, so a program has converted it: copy the original again"
                .to_owned()
        }
        None => format!("not a ledger file: {found}"),
    }
}
