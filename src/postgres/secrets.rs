//! The HMAC secrets: where they come from, and how they are kept from showing.
//!
//! The environment variable is read once, by the postmaster before it forks, and taken out of the environment; the file
//! is read by each process that signs or verifies, and again after a reload.

use super::errors::{cause, or_raise, sentence, Failure};
use super::roles;
use super::settings;
use crate::ledger::signature::{Keyring, MAX_KEYRING, SHORTEST_SECRET};
use crate::ledger::verifier::{KeyCounts, WrongKey};
use crate::regular_file;
use once_cell::sync::OnceCell;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

const VARIABLE: &str = "INTEGRITY_HMAC_SECRET";
const DEFAULT_KEY_ID: &str = "default";
const NOT_UTF8: &str = "it is not UTF-8 text";

static FROM_ENVIRONMENT: OnceCell<Option<OsString>> = OnceCell::new();

thread_local! {
    /// The keyring of the environment's secret, made at its first use.
    static ENVIRONMENT_KEYRING: once_cell::unsync::OnceCell<Rc<Keyring>> = const { once_cell::unsync::OnceCell::new() };
    /// The keyring of the file, with the path and the reload it was read at.
    static FROM_FILE: RefCell<Option<(String, pg_sys::TimestampTz, Rc<Keyring>)>> = const { RefCell::new(None) };
    /// The keyring that verifies in one statement: when that began, and the reload before it.
    static VERIFYING: RefCell<Option<([pg_sys::TimestampTz; 2], Rc<Keyring>)>> = const { RefCell::new(None) };
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
        Some(path) => from_file(&path).map(Some).map_err(|why| unusable_file(&path, &why)),
        None => from_environment(),
    }
}

/// As [`keyring`], to verify with. A key may be added while a verification runs, which learns of a reload only after
/// its statement: at the first key that it lacks, the file is read once more.
pub fn verifying_keyring() -> Result<Option<Rc<Keyring>>, Failure> {
    // A process of another extension may never say that a statement begins: there, a reload ends one.
    // SAFETY: reads a global of this process.
    let statement = [unsafe { pg_sys::GetCurrentStatementStartTimestamp() }, settings::read_at()];
    let known = VERIFYING.with_borrow(|known| known.clone());
    if let Some((_, keyring)) = known.filter(|(of_statement, _)| *of_statement == statement) {
        return Ok(Some(keyring));
    }
    let keyring = keyring()?;
    let (Some(own), Some(path)) = (&keyring, settings::hmac_secret_file()) else { return Ok(keyring) };
    let keyring = Rc::new(Keyring::clone(own).rereading(move || read_file(&path).ok()));
    VERIFYING.set(Some((statement, Rc::clone(&keyring))));
    Ok(Some(keyring))
}

fn from_environment() -> Result<Option<Rc<Keyring>>, Failure> {
    let Some(secret) = FROM_ENVIRONMENT.get().and_then(Option::as_ref) else { return Ok(None) };
    ENVIRONMENT_KEYRING.with(|cached| cached.get_or_try_init(|| of_variable(secret).map(Rc::new)).cloned().map(Some))
}

fn of_variable(secret: &OsStr) -> Result<Keyring, Failure> {
    let unusable = |why: &str| {
        Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, format!("cannot use the HMAC secret of {VARIABLE}"))
            .detail(sentence(why))
            .hint("Start the server with another secret in its environment, or set ledger.hmac_secret_file.")
    };
    let text = secret.to_str().ok_or_else(|| unusable(NOT_UTF8))?;
    Keyring::single(DEFAULT_KEY_ID, text.as_bytes()).map_err(|error| unusable(&error.to_string()))
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

/// What the file gives, or why it cannot be used.
fn from_file(path: &str) -> Result<Rc<Keyring>, String> {
    let reloaded_at = settings::read_at();
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

fn read_file(path: &str) -> Result<Keyring, String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::InvalidData => NOT_UTF8.to_owned(),
        _ => cause(&error),
    };
    let file = regular_file::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(format!("its mode is {:04o}: others can read or write it", metadata.mode() & 0o7777));
    }
    let mut text = String::new();
    file.take(MAX_KEYRING as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    Keyring::parse(&text).map_err(|error| error.to_string())
}

/// Only users who may read files of the server are told where the file is. For others only the log says it.
fn unusable_file(path: &str, why: &str) -> Failure {
    if roles::caller_reads_server_files() {
        return unusable_file_named(path, why);
    }
    unusable("cannot use the HMAC secret file".to_owned(), why).log_beside(format!("HMAC secret file: \"{path}\""))
}

fn unusable_file_named(path: &str, why: &str) -> Failure {
    unusable(format!("cannot use HMAC secret file \"{path}\""), why)
}

fn unusable(message: String, why: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, message)
        .detail(sentence(why))
        .hint("It must be a regular file of the server's user with mode 0600 and lines of the form key_id:secret.")
}

/// The server's secrets, if it has any.
pub type Secrets = Option<Rc<Keyring>>;

/// What a process that lives long knows of the secrets.
#[derive(Default)]
pub struct Watch {
    /// The reload after which it last looked.
    reloaded_at: Option<pg_sys::TimestampTz>,
    /// What it found when it last could use what is configured.
    known: Option<Secrets>,
}

impl Watch {
    /// Looks at the first call, and after each reload. Returns the secrets at the first look and if they have changed
    /// since the last, and an error if what is configured cannot be used. Needs no transaction.
    pub fn look(&mut self) -> Result<Option<Secrets>, Failure> {
        let reloaded_at = Some(settings::read_at());
        if std::mem::replace(&mut self.reloaded_at, reloaded_at) == reloaded_at {
            return Ok(None);
        }
        let found = match settings::hmac_secret_file() {
            Some(path) => Some(from_file(&path).map_err(|why| unusable_file_named(&path, &why))?),
            None => from_environment()?,
        };
        let is_known = match (&self.known, &found) {
            (Some(Some(known)), Some(found)) => known.is_same(found),
            (Some(known), found) => known.is_none() && found.is_none(),
            (None, _) => false,
        };
        if is_known {
            return Ok(None);
        }
        self.known = Some(found.clone());
        Ok(Some(found))
    }
}

/// Logs which secrets are too short.
pub fn warn_if_short(keyring: &Keyring) {
    for key_id in keyring.short() {
        let message = format!("HMAC secret with key_id \"{key_id}\" is shorter than {SHORTEST_SECRET} bytes");
        Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, message)
            .detail("Anyone who sees a signature can find a short secret by trial and error, and then forge signatures.")
            .hint("Use at least 32 random bytes, such as \"openssl rand -hex 32\" gives, and give the new secret a key_id of its own.")
            .warn();
    }
}

/// Tells the user who verifies that signatures were left out, if the server has nothing to check them with.
pub fn note_unchecked_signatures() {
    if or_raise(keyring()).is_none() {
        pgrx::notice!("signatures were not checked: the server has no HMAC secret");
    }
}

/// Tells the user who verifies which secrets seem to be wrong, from the signatures that were checked with the server's
/// keyring.
pub fn warn_of_wrong_keys(counts: &KeyCounts) {
    // Without a keyring, nothing was counted.
    let Ok(Some(keyring)) = verifying_keyring() else { return };
    counts.wrong_keys(&keyring).iter().for_each(warn_of_wrong_key);
}

/// Tells the user who verifies that a secret seems to be wrong.
pub fn warn_of_wrong_key(wrong: &WrongKey) {
    let WrongKey { key_id, invalid, checked } = wrong;
    let message = format!("HMAC secret with key_id \"{key_id}\" seems to be wrong");
    Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, message)
        .detail(format!(
            "{invalid} of {checked} signatures with this key_id that were checked are not those that the secret makes."
        ))
        .hint(
            "Perhaps it is another secret, or begins or ends with a space or line end that does not belong to it. If \
             it was changed, put the old secret back under this key_id in ledger.hmac_secret_file, and give the new \
             one a new key_id.",
        )
        .warn();
}

/// Tells the user who verifies one entry what its invalid signature may mean. Only other entries tell whether it does.
pub fn note_invalid_signature() {
    pgrx::notice!(
        "the signature is invalid; if other signatures with its key_id are invalid too, that key_id probably has a \
         wrong secret: see SELECT * FROM ledger.find_tampering()"
    );
}
