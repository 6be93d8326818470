//! The HMAC secrets: where they come from, and that they never show.
//!
//! The environment variable is read once, by the postmaster before it forks, and taken out of the environment; the file
//! is read by each process that signs or verifies, and again after a reload.

use super::errors::{cause, Failure};
use super::regular_file;
use super::roles;
use super::settings;
use crate::ledger::signature::{Keyring, MAX_KEYRING};
use once_cell::sync::OnceCell;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

const VARIABLE: &str = "INTEGRITY_HMAC_SECRET";
const DEFAULT_KEY_ID: &str = "default";

static FROM_ENVIRONMENT: OnceCell<Option<OsString>> = OnceCell::new();

thread_local! {
    /// The keyring of the environment's secret, made at its first use.
    static ENVIRONMENT_KEYRING: once_cell::unsync::OnceCell<Rc<Keyring>> = const { once_cell::unsync::OnceCell::new() };
    /// The keyring of the file, with the path and the reload it was read at.
    static FROM_FILE: RefCell<Option<(String, pg_sys::TimestampTz, Rc<Keyring>)>> = const { RefCell::new(None) };
}

/// Takes the secret out of the environment, so that neither a child process nor a function of another language sees it.
pub fn init() {
    FROM_ENVIRONMENT.get_or_init(|| {
        let secret = std::env::var_os(VARIABLE).filter(|secret| !secret.is_empty());
        std::env::remove_var(VARIABLE);
        secret
    });
}

/// The keys this server signs and verifies with, or `None` if it has no secret.
pub fn keyring() -> Result<Option<Rc<Keyring>>, Failure> {
    match settings::hmac_secret_file() {
        Some(path) => from_file(&path).map(Some),
        None => from_environment(),
    }
}

fn from_environment() -> Result<Option<Rc<Keyring>>, Failure> {
    let Some(secret) = FROM_ENVIRONMENT.get().and_then(Option::as_ref) else { return Ok(None) };
    ENVIRONMENT_KEYRING.with(|cached| cached.get_or_try_init(|| of_variable(secret).map(Rc::new)).cloned().map(Some))
}

fn of_variable(secret: &OsStr) -> Result<Keyring, Failure> {
    let unusable = |detail: String| {
        Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, format!("cannot use the HMAC secret of {VARIABLE}"))
            .detail(detail)
            .hint("Start the server with another one in its environment, or set ledger.hmac_secret_file.")
    };
    let text = secret.to_str().ok_or_else(|| unusable("It is not UTF-8 text.".to_owned()))?;
    Keyring::single(DEFAULT_KEY_ID, text.as_bytes()).map_err(|error| unusable(error.to_string()))
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
        unusable_file(path)
            .detail(detail)
            .hint("It must be a regular file of the server's user with mode 0600 and lines of the form key_id:secret.")
    };
    let file = regular_file::open(path).map_err(|error| unusable(cause(&error)))?;
    let metadata = file.metadata().map_err(|error| unusable(cause(&error)))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(unusable(format!("Its mode is {:04o}: others can read or write it.", metadata.mode() & 0o7777)));
    }
    let mut text = String::new();
    file.take(MAX_KEYRING as u64 + 1).read_to_string(&mut text).map_err(|error| unusable(cause(&error)))?;
    Keyring::parse(&text).map_err(|error| unusable(error.to_string()))
}

/// Where the file is concerns those who may read files of the server; for others the log alone says it.
fn unusable_file(path: &str) -> Failure {
    let code = PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR;
    match roles::caller_reads_server_files() {
        true => Failure::new(code, format!("cannot use HMAC secret file \"{path}\"")),
        false => {
            Failure::new(code, "cannot use the HMAC secret file").log_beside(format!("HMAC secret file: \"{path}\""))
        }
    }
}
