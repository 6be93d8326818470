//! Recording: every entry of the ledger is made by the functions here.

use super::database;
use super::entries_pending;
use super::entry_clock;
use super::errors::{or_raise, required, Failure};
use super::hashing;
use super::ids;
use super::jsonb::{Jsonb, JsonbText};
use super::mirror::id_reuse::IdReuse;
use super::new_ids;
use super::partitions;
use super::queue;
use super::queued_entry::{self, QueuedEntry};
use super::secrets;
use super::settings::MirrorMode;
use super::tables::{self, entry_column, ShortValues};
use super::transaction;
use crate::ledger::metadata::Metadata;
use crate::ledger::record::{self, Entry, Timestamp};
use crate::ledger::signature::{self, Keyring};
use crate::ledger::verifier::{check_signature, SignatureCheck};
use crate::ledger::{row_change, sha256_hex};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::json;
use std::ffi::CStr;
use std::rc::Rc;
use uuid::Uuid;

/// How an entry gets its signature.
enum Signing<'a> {
    /// Made here; an error where there is no secret.
    Required,
    /// Made here where there is a secret.
    IfPossible,
    /// The caller wants none.
    None,
    /// Made by the caller; it must be good under one of the server's keys.
    Given(&'a str),
}

struct Draft<'a> {
    entry_id: Option<Uuid>,
    entry_type: &'a str,
    data_hash: String,
    metadata: Jsonb,
    signing: Signing<'a>,
}

#[pg_extern(volatile, parallel_unsafe)]
fn hash_and_record(
    entry_type: Option<&str>,
    data: Option<Jsonb>,
    metadata: default!(Option<Jsonb>, "'{}'"),
    with_signature: default!(Option<bool>, "true"),
) -> JsonbText {
    let signing = if required(with_signature, "with_signature") { Signing::Required } else { Signing::None };
    let draft = Draft {
        entry_id: None,
        entry_type: required(entry_type, "entry_type"),
        data_hash: hash_of(required(data, "data")),
        metadata: required(metadata, "metadata"),
        signing,
    };
    let entry = or_raise(record(c"hash_and_record()", draft));
    JsonbText::from(json!({
        "entry_id": entry.entry_id.to_string(),
        "data_hash": entry.data_hash,
        "signature": entry.signature,
        "postgres_recorded": true,
        "file_recorded": transaction::mirror_mode().waits_for_file(),
        "timestamp": entry.created_at.to_string(),
    }))
}

#[pg_extern(volatile, parallel_unsafe)]
fn add_entry(
    entry_type: Option<&str>,
    data: Option<Jsonb>,
    signature: default!(Option<&str>, "NULL"),
    metadata: default!(Option<Jsonb>, "'{}'"),
) -> pgrx::Uuid {
    let draft = Draft {
        entry_id: None,
        entry_type: required(entry_type, "entry_type"),
        data_hash: hash_of(required(data, "data")),
        metadata: required(metadata, "metadata"),
        signing: signature.map_or(Signing::IfPossible, Signing::Given),
    };
    ids::to_sql(or_raise(record(c"add_entry()", draft)).entry_id)
}

#[pg_extern(volatile, parallel_unsafe)]
fn append_entry(
    entry_type: Option<&str>,
    entry_id: Option<pgrx::Uuid>,
    data_hash: Option<&str>,
    metadata: default!(Option<Jsonb>, "'{}'"),
) -> pgrx::Uuid {
    let draft = Draft {
        entry_id: Some(ids::from_sql(required(entry_id, "entry_id"))),
        entry_type: required(entry_type, "entry_type"),
        data_hash: required(data_hash, "data_hash").to_owned(),
        metadata: required(metadata, "metadata"),
        signing: Signing::IfPossible,
    };
    ids::to_sql(or_raise(record(c"append_entry()", draft)).entry_id)
}

fn hash_of(data: Jsonb) -> String {
    sha256_hex(or_raise(data.canonical()).as_bytes())
}

/// An entry that the ledger makes by itself: about a row of a tracked table, about the table, or about an item.
pub struct OwnEntry {
    pub entry_type: &'static str,
    pub data_hash: String,
    pub metadata: Metadata,
    pub with_signature: bool,
    pub created_at: Timestamp,
}

impl OwnEntry {
    /// An entry with the time of the change, not of the transaction: of two changes to one row, the later one may
    /// belong to the transaction that began first.
    pub fn now(entry_type: &'static str, data_hash: String, metadata: Metadata, with_signature: bool) -> OwnEntry {
        OwnEntry { entry_type, data_hash, metadata, with_signature, created_at: entry_clock::now() }
    }

    /// Checks and signs the entry, gives it an id, and queues its line for the mirror.
    fn prepare(self) -> Result<QueuedEntry, Failure> {
        require_recording()?;
        let keyring = self.with_signature.then(secrets::required_keyring).transpose()?;
        let sign = |keyring: Rc<Keyring>| {
            let signature = keyring.sign(&self.data_hash).1;
            (keyring, signature)
        };
        let signature = keyring.map(sign);
        check_length(&self.metadata.text)?;
        let mut recorded = QueuedEntry {
            entry_id: ids::time_ordered(),
            entry_type: self.entry_type,
            data_hash: self.data_hash,
            metadata: self.metadata,
            signature,
            created_at: self.created_at,
        };
        transaction::add_entry(&recorded.as_line());
        if recorded.metadata.jsonb.is_some() {
            // Many entries may wait, so only one form of the metadata is kept.
            recorded.metadata.text = String::new();
        }
        Ok(recorded)
    }
}

/// Signs and inserts an entry of the ledger's own, and queues its line for the mirror. Returns the entry's id.
pub fn record_own(entry: OwnEntry) -> Result<Uuid, Failure> {
    let recorded = entry.prepare()?;
    queued_entry::insert_all([&recorded].into_iter());
    Ok(recorded.entry_id)
}

/// As [`record_own`], for one of many entries: they are inserted together when the statement ends.
pub fn record_own_later(entry: OwnEntry) -> Result<(), Failure> {
    queue::add(entry.prepare()?);
    Ok(())
}

fn require_recording() -> Result<(), Failure> {
    database::require_preloaded()?;
    require_committed_extension()?;
    transaction::require_open()?;
    transaction::require_no_import()
}

/// Refuses to record in the transaction that creates the extension. The worker, which opens the mirror file, cannot see
/// the ledger before that transaction has committed, and the transaction could not commit without the file. A worker
/// that runs already has the file of a ledger that the same transaction has dropped: lines there would be foreign to
/// it.
fn require_committed_extension() -> Result<(), Failure> {
    if !transaction::creates_ledger() || transaction::mirror_mode() == MirrorMode::Off {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot record in the transaction that creates the extension",
    )
    .detail("The new ledger has no mirror file before that transaction has committed.")
    .hint("Commit CREATE EXTENSION pg_notary first."))
}

/// What a trigger says of a row must come from a trigger, and what is said of an item from the registry.
fn check_not_reserved(entry_type: &str) -> Result<(), Failure> {
    if !row_change::is_reserved(entry_type) {
        return Ok(());
    }
    if row_change::ITEM_ENTRY_TYPES.contains(&entry_type) {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("entry_type \"{entry_type}\" is reserved for the registry of items"),
        )
        .hint("Choose another name, or use ledger.create_item(), ledger.sign_item(), ledger.move_item() or ledger.revoke_signature()."));
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("entry_type \"{entry_type}\" is reserved for tracked tables"),
    )
    .hint("Choose another name, or have the table tracked: SELECT ledger.track('table')."))
}

/// Validates, signs, inserts, and queues the line for the mirror.
fn record(function: &CStr, draft: Draft) -> Result<Entry, Failure> {
    require_recording()?;
    check_not_reserved(draft.entry_type)?;
    database::require_writable(function);
    check_metadata(draft.metadata)?;
    let (signature, key_id) = sign(&draft.data_hash, draft.signing)?;
    let entry = Entry {
        entry_id: draft.entry_id.unwrap_or_else(ids::time_ordered),
        entry_type: draft.entry_type.to_owned(),
        data_hash: draft.data_hash,
        metadata: draft.metadata.canonical()?,
        signature,
        key_id,
        // SAFETY: inside a transaction.
        created_at: tables::timestamp_from_postgres(unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }),
    };
    validate(&entry)?;
    let mut values = ShortValues::new();
    let columns = queued_entry::columns_of(&entry.as_line(), draft.metadata.datum(), &mut values);
    entries_pending::insert(&entries_pending::open(), &columns);
    if draft.entry_id.is_some() {
        transaction::note_id(IdReuse::Any);
        check_not_sealed(entry.entry_id)?;
    }
    transaction::add_entry(&entry.as_line());
    Ok(entry)
}

fn sign(data_hash: &str, signing: Signing) -> Result<(Option<String>, Option<String>), Failure> {
    let keyring = match signing {
        Signing::None => None,
        Signing::IfPossible => secrets::keyring()?,
        Signing::Required | Signing::Given(_) => Some(secrets::required_keyring()?),
    };
    let Some(keyring) = keyring else {
        return Ok((None, None));
    };
    if let Signing::Given(given) = signing {
        let key_id = keyring
            .iter()
            .find(|(_, secret)| signature::verify(secret, data_hash, given))
            .map(|(key_id, _)| key_id.to_owned())
            .ok_or_else(invalid_signature)?;
        return Ok((Some(given.to_owned()), Some(key_id)));
    }
    let (key_id, signature) = keyring.sign(data_hash);
    Ok((Some(signature), Some(key_id.to_owned())))
}

/// The signature must be one that [`complete_row`] leaves: of the server, wherever it has a secret.
fn check_completed(entry: &Entry) -> Result<(), Failure> {
    let keyring = secrets::keyring()?;
    match check_signature(keyring.as_deref(), &entry.as_line()) {
        SignatureCheck::Valid { .. } => Ok(()),
        SignatureCheck::Unsigned if keyring.is_none() => Ok(()),
        _ => Err(not_completed(entry)),
    }
}

fn not_completed(entry: &Entry) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("entry {} is not as trigger \"zz_complete_entry\" leaves it", entry.entry_id),
    )
    .detail("That trigger checks and signs a row before it is inserted. It is disabled, or another changed the row after it.")
    .hint(
        "ALTER TABLE ledger.entries_pending ENABLE ALWAYS TRIGGER zz_complete_entry enables it. Give triggers of your own \
         names that sort before it.",
    )
}

fn invalid_signature() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "signature is not valid for this data")
        .detail("None of the server's HMAC keys makes this signature for the entry's data_hash.")
        .hint("Leave the signature out to have the server sign, or make it with ledger.create_signature(data_hash).")
}

/// Checks that hold for every entry, however it was made.
pub fn validate(entry: &Entry) -> Result<(), Failure> {
    hashing::check_hash("data_hash", &entry.data_hash)?;
    record::check_entry_type(&entry.entry_type).map_err(|error| {
        Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "invalid entry_type")
            .detail(format!("{error}."))
            .hint("An entry_type names a kind of entry in 1 to 100 characters, such as 'payment' or 'memory_write'.")
    })?;
    check_length(&entry.metadata)
}

/// A longer line could be written, but not read again. Only the metadata of an entry can be long.
fn check_length(metadata: &str) -> Result<(), Failure> {
    let length = metadata.len();
    if length <= record::MAX_METADATA {
        return Ok(());
    }
    Err(Failure::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "metadata of an entry is too long")
        .detail(format!("As canonical JSON it has {length} bytes; the limit is {}.", record::MAX_METADATA))
        .hint("Record a hash of the large value, and store the value elsewhere."))
}

fn check_metadata(metadata: Jsonb) -> Result<(), Failure> {
    if metadata.is_object() {
        return Ok(());
    }
    Err(Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "metadata must be a JSON object")
        .hint("Pass an object such as '{\"source\": \"import\"}', or leave metadata out."))
}

/// The other half of "an id is unique over the whole ledger": the index of the pending partition knows only what is
/// pending. The look-up comes after the insert, with a current snapshot: if the entry was sealed in between, the insert
/// has waited for that.
fn check_not_sealed(entry_id: Uuid) -> Result<(), Failure> {
    match partitions::block_of(entry_id) {
        None => Ok(()),
        Some(block_number) => {
            Err(Failure::new(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, format!("entry {entry_id} is already recorded"))
                .detail(format!("It is sealed in block {block_number}."))
                .hint("An entry is recorded once; use a new id for a new entry."))
        }
    }
}

/// What BEFORE INSERT does to a row that comes by INSERT or COPY: the same checks and the same signature as the
/// functions. Returns the columns to insert.
pub fn complete_row(row: &tables::Row) -> Result<Vec<Option<pg_sys::Datum>>, Failure> {
    use entry_column::*;
    require_recording()?;
    if row.datum(BLOCK_NUMBER).is_some() || row.datum(LEAF_INDEX).is_some() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "an entry cannot be inserted as sealed",
        )
        .detail("Only sealing sets block_number and leaf_index.")
        .hint("Leave both columns out; the entry is sealed with the next block."));
    }
    let missing = |column: &str| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            format!("column \"{column}\" of ledger.entries must not be null"),
        )
    };
    let entry_id = row.uuid(ID).ok_or_else(|| missing("id"))?;
    check_not_reserved(row.text(ENTRY_TYPE).ok_or_else(|| missing("entry_type"))?)?;
    let created_at: i64 = row.get(CREATED_AT).ok_or_else(|| missing("created_at"))?;
    tables::checked_timestamp(created_at).ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "created_at is out of range")
            .detail("A ledger line states times from the year 0001 to 9999.")
    })?;
    let data_hash = row.text(DATA_HASH).ok_or_else(|| missing("data_hash"))?;
    check_metadata(row.get(METADATA).ok_or_else(|| missing("metadata"))?)?;
    hashing::check_hash("data_hash", data_hash)?;
    let (signature, key_id) = sign(data_hash, row.text(SIGNATURE).map_or(Signing::IfPossible, Signing::Given))?;
    new_ids::announce(entry_id);
    let mut columns = row.columns();
    columns[SIGNATURE] = signature.as_deref().and_then(tables::text_datum);
    columns[KEY_ID] = key_id.as_deref().and_then(tables::text_datum);
    Ok(columns)
}

/// What AFTER INSERT does with a row that comes by INSERT or COPY. It takes nothing from [`complete_row`] on trust: a
/// superuser can disable the one trigger and leave the other, and then the file would vouch for the row.
pub fn queue_row(row: &tables::Row) -> Result<(), Failure> {
    let entry = tables::new_entry_from_row(row)?;
    check_not_reserved(&entry.entry_type)?;
    check_metadata(row.get(entry_column::METADATA).ok_or_else(|| not_completed(&entry))?)?;
    validate(&entry)?;
    check_completed(&entry)?;
    transaction::require_open()?;
    if !new_ids::is_unused(entry.entry_id) {
        check_not_sealed(entry.entry_id)?;
    }
    transaction::add_entry(&entry.as_line());
    Ok(())
}
