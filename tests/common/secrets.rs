//! What the tests of HMAC secrets have in common: the file that they are in, and whether signatures are valid.

use super::ledger::*;
use super::{give_to_server, Cluster, Options};
use postgres::Client;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub const OLD: &str = "the old secret of many bytes";
pub const NEW: &str = "the new secret of many bytes";

/// Writes the secret file. No process finds a part of it.
pub fn write_secrets(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(mode)).unwrap();
    give_to_server(&new);
    fs::rename(&new, path).unwrap();
}

/// A ledger that has its secrets from a file.
pub fn start_with_file(text: &str) -> (Cluster, Client, PathBuf) {
    let (cluster, mut client) = start(Options::new());
    let path = cluster.scratch_dir().join("secrets");
    write_secrets(&path, text, 0o600);
    set(&mut client, "ledger.hmac_secret_file", &format!("'{}'", path.display()));
    (cluster, client, path)
}

#[track_caller]
pub fn verifies(client: &mut Client, id: &str) -> bool {
    let verdict = json(client, &format!("SELECT ledger.verify_entry('{id}', '{{\"n\": 1}}')"));
    verdict["signature_valid"].as_bool().unwrap() && verdict["verified"].as_bool().unwrap()
}
