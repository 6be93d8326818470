//! The HMAC secrets: where they come from, and that they never show.
//!
//! The environment variable is read once, by the postmaster before it forks, and taken out of the environment; the file
//! is read by each process that signs or verifies, and again after a reload.

use super::errors::{cause, Failure};
use super::regular_file;
use super::settings;
use crate::ledger::signature::Keyring;
use once_cell::sync::OnceCell;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

const VARIABLE: &str = "INTEGRITY_HMAC_SECRET";
const DEFAULT_KEY_ID: &str = "default";
/// Larger than any sensible list of keys; keeps a wrong path (a log, a device) from being read whole.
const MAX_SECRET_FILE_BYTES: u64 = 1 << 20;

static FROM_ENVIRONMENT: OnceCell<Option<String>> = OnceCell::new();

thread_local! {
    /// The keyring of the environment's secret, made at its first use.
    static ENVIRONMENT_KEYRING: once_cell::unsync::OnceCell<Rc<Keyring>> = const { once_cell::unsync::OnceCell::new() };
    /// The keyring of the file, with the path and the reload it was read at.
    static FROM_FILE: RefCell<Option<(String, pg_sys::TimestampTz, Rc<Keyring>)>> = const { RefCell::new(None) };
}

/// Takes the secret out of the environment, so that neither a child process nor a function of another language sees it.
pub fn init() {
    FROM_ENVIRONMENT.get_or_init(|| {
        let secret = std::env::var(VARIABLE).ok().filter(|secret| !secret.is_empty());
        std::env::remove_var(VARIABLE);
        secret
    });
}

/// The keys this server signs and verifies with, or `None` if it has no secret.
pub fn keyring() -> Result<Option<Rc<Keyring>>, Failure> {
    match settings::hmac_secret_file() {
        Some(path) => from_file(&path).map(Some),
        None => Ok(from_environment()),
    }
}

fn from_environment() -> Option<Rc<Keyring>> {
    let secret = FROM_ENVIRONMENT.get()?.as_ref()?;
    ENVIRONMENT_KEYRING.with(|cached| {
        let keyring = cached.get_or_try_init(|| Keyring::single(DEFAULT_KEY_ID, secret.as_bytes()).map(Rc::new));
        keyring.ok().cloned()
    })
}

/// As [`keyring`], for callers that asked for a signature.
pub fn required_keyring() -> Result<Rc<Keyring>, Failure> {
    keyring()?.ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "no HMAC secret is configured")
            .detail(format!(
                "A signature was asked for, but neither {VARIABLE} nor ledger.hmac_secret_file gives a secret."
            ))
            .hint(format!(
                "Set ledger.hmac_secret_file and reload, or start the server with {VARIABLE} in its environment and \
                 pg_notary in shared_preload_libraries."
            ))
    })
}

fn from_file(path: &str) -> Result<Rc<Keyring>, Failure> {
    // SAFETY: a plain global of this process, written only by ProcessConfigFile in this same thread.
    let reloaded_at = unsafe { pg_sys::PgReloadTime };
    FROM_FILE.with_borrow_mut(|cached| {
        if let Some((of_path, at, keyring)) = cached {
            if of_path == path && *at == reloaded_at {
                return Ok(Rc::clone(keyring));
            }
        }
        let keyring = Rc::new(read_file(path)?);
        *cached = Some((path.to_owned(), reloaded_at, Rc::clone(&keyring)));
        Ok(keyring)
    })
}

fn read_file(path: &str) -> Result<Keyring, Failure> {
    let unusable = |detail: String| {
        Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, format!("cannot use HMAC secret file \"{path}\""))
            .detail(detail)
            .hint("It must be a regular file of the server's user with mode 0600 and lines of the form key_id:secret.")
    };
    let file = regular_file::open(path).map_err(|error| unusable(cause(&error)))?;
    let metadata = file.metadata().map_err(|error| unusable(cause(&error)))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(unusable(format!("Its mode is {:04o}: others can read or write it.", metadata.mode() & 0o7777)));
    }
    let mut text = String::new();
    file.take(MAX_SECRET_FILE_BYTES).read_to_string(&mut text).map_err(|error| unusable(cause(&error)))?;
    Keyring::parse(&text).map_err(|error| unusable(error.to_string()))
}
