//! The SQL functions that sign, move, revoke and load registered items. What is signed goes into `ledger.items`, and as
//! an entry into the ledger.

use super::calls::Calls;
use super::entries::{self, ItemEntries, ItemEntry};
use super::failure;
use super::input::{id_and_version, GivenItem, Stored};
use super::rows::{self, SignedRow};
use super::signing::Signing;
use super::verifier::{with_latest_snapshot, with_latest_snapshot_to_sign, ROW_GONE_SOLUTION};
use crate::items::attributes;
use crate::items::item::Item;
use crate::items::payload::text_hash;
use crate::items::registration::{parse_pins, Event, ItemName, Registration};
use crate::items::signature_line::{to_seconds, LineFormat};
use crate::items::signer::{self, SignedItem};
use crate::items::verifier::{Status, Verification, SOLUTION};
use crate::items::ItemError;
use crate::ledger::parse_hash;
use crate::postgres::database;
use crate::postgres::encoding::NOT_TEXT;
use crate::postgres::errorless;
use crate::postgres::errors::{or_raise, required, Failure};
use crate::postgres::jsonb::{Jsonb, JsonbText};
use crate::postgres::roles::{self, as_ledger_owner};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::{json, Value};

/// Signs an item that is not registered yet. Its id and version may be omitted if its text states them.
#[pg_extern(volatile, parallel_unsafe, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments, reason = "the parts of an item")]
fn create_item(
    item_type: Option<&str>,
    item_id: Option<String>,
    version: Option<String>,
    content: Option<String>,
    file_path: Option<String>,
    metadata: default!(Option<Jsonb>, "NULL"),
    depends_on: default!(Option<Jsonb>, "NULL"),
    language: default!(Option<String>, "NULL"),
) -> JsonbText {
    database::require_writable(c"create_item()");
    let item_type = or_raise(required(item_type, "item_type").parse().map_err(failure));
    let content = required(content, "content");
    let file_path = required(file_path, "file_path");
    let read = attributes::read(item_type, &content, Some(&file_path), language.as_deref());
    let (item_id, version) = or_raise(id_and_version(item_id, version, read));
    let draft = GivenItem {
        item_type: item_type.as_str().to_owned(),
        id: item_id,
        version,
        content,
        file_path: Some(file_path),
        metadata: metadata.map(Jsonb::text),
        language,
        stored: Stored::InContent,
        registered_at: None,
        revoked: None,
    };
    let signer = Signer::caller();
    as_ledger_owner(|| or_raise(sign(&draft, Calls::of(depends_on), Signing::First, signer)))
}

/// Signs a registered item again; what is given replaces what is registered.
#[pg_extern(volatile, parallel_unsafe, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments, reason = "the parts of an item")]
fn sign_item(
    item_type: Option<&str>,
    item_id: Option<String>,
    version: Option<String>,
    content: default!(Option<String>, "NULL"),
    metadata: default!(Option<Jsonb>, "NULL"),
    depends_on: default!(Option<Jsonb>, "NULL"),
    language: default!(Option<String>, "NULL"),
) -> JsonbText {
    database::require_writable(c"sign_item()");
    let name = or_raise(item_name(item_type, item_id, version));
    let signer = Signer::caller();
    as_ledger_owner(|| {
        let mut draft = or_raise(lock(&name));
        if language.is_some() {
            // Removes the old line while the old language is known: this language may have other comments, and then the
            // old line would stay.
            draft.content = unsigned(&draft).unwrap_or(draft.content);
        }
        draft.content = content.unwrap_or(draft.content);
        draft.metadata = metadata.map(Jsonb::text).or(draft.metadata);
        draft.language = language.or(draft.language);
        or_raise(sign(&draft, Calls::of(depends_on), Signing::Again, signer))
    })
}

/// Signs an item for another place. An item that does not verify where it is now is refused.
#[pg_extern(volatile, parallel_unsafe, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
fn move_item(
    item_type: Option<&str>,
    item_id: Option<String>,
    version: Option<String>,
    file_path: Option<String>,
) -> JsonbText {
    database::require_writable(c"move_item()");
    let name = or_raise(item_name(item_type, item_id, version));
    let file_path = required(file_path, "file_path");
    let signer = Signer::caller();
    as_ledger_owner(|| {
        let mut draft = or_raise(lock(&name));
        let found = with_latest_snapshot_to_sign(|mut verifier| verifier.verify_alone(&draft));
        or_raise(require_success(&name, found.verification));
        // Removes the old line as the old place has it: files at the new place may have other comments, and then the
        // old line would stay.
        draft.content = or_raise(unsigned(&draft).map_err(failure));
        draft.file_path = Some(file_path);
        let from = draft.registered_at.clone().unwrap_or_default();
        or_raise(sign(&draft, Calls::Same, Signing::Move { from }, signer))
    })
}

/// Revokes an item: it is not to be used any more.
#[pg_extern(volatile, parallel_unsafe, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
fn revoke_signature(
    item_type: Option<&str>,
    item_id: Option<String>,
    version: Option<String>,
    reason: Option<String>,
) -> JsonbText {
    database::require_writable(c"revoke_signature()");
    let name = or_raise(item_name(item_type, item_id, version));
    let reason = required(reason, "reason");
    let signer = Signer::caller();
    as_ledger_owner(|| or_raise(revoke(name, reason, signer)))
}

fn revoke(name: ItemName, reason: String, signer: Signer) -> Result<JsonbText, Failure> {
    if reason.trim().is_empty() {
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "reason must not be empty"));
    }
    let row = lock(&name)?;
    let (previous, known) = with_latest_snapshot_to_sign(|verifier| {
        let previous = verifier.entries().newest(&name);
        let known = previous.as_ref().and_then(|entry| verifier.entries().proved(entry, &name).ok());
        (previous, known)
    });
    let mut registration = match known {
        Some(known) => known,
        // The ledger has no good entry about it: it is revoked as the table has it.
        None => registration_of_row(&row, &name)?,
    };
    registration.event = Event::Revoked { reason };
    let Event::Revoked { reason } = &registration.event else { unreachable!("set above") };
    let revoked_at = entries::time_after(previous.as_ref());
    let entry_id = entries::record(&registration, revoked_at, signer.user)?;
    rows::revoke(&name, entry_id, revoked_at, reason);
    let mut receipt = name_receipt(&name);
    receipt["entry_id"] = json!(entry_id.to_string());
    receipt["reason"] = json!(reason);
    Ok(JsonbText::from(receipt))
}

/// Refuses an item whose row holds bytes that are no text: what stands in their place must not be vouched for.
fn check_readable(item: &GivenItem, name: &ItemName) -> Result<(), Failure> {
    let texts = [Some(&item.content), item.language.as_ref(), item.registered_at.as_ref(), item.metadata.as_ref()];
    match texts.into_iter().flatten().any(|text| text == NOT_TEXT) {
        false => Ok(()),
        true => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("the row of {name} in ledger.items is damaged"),
        )
        .detail("It holds bytes that are not text in the encoding of the database.")
        .hint(
            "Restore the row from a backup, or sign the item with its content: ledger.sign_item(..., content => ...).",
        )),
    }
}

fn registration_of_row(row: &GivenItem, name: &ItemName) -> Result<Registration, Failure> {
    check_readable(row, name)?;
    let text_hash = text_hash(&row.item().map_err(failure)?).map_err(failure)?;
    let Stored::Elsewhere(Some(integrity)) = &row.stored else { unreachable!("the column is not null") };
    if parse_hash(integrity).is_none() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("the integrity_hash of {name} is not a SHA-256 hash"),
        )
        .hint(format!("{SOLUTION}.")));
    }
    Ok(Registration {
        name: name.clone(),
        event: Event::Signed,
        location: row.registered_at.clone().unwrap_or_default(),
        integrity: integrity.clone(),
        text_hash,
        language: row.language.clone(),
        depends_on: rows::repeated(name).and_then(|row| parse_pins(&row.depends_on)).unwrap_or_default(),
    })
}

/// The gate: returns the content of an item if it and everything that it calls verifies.
#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
fn load_item(
    item_type: Option<&str>,
    item_id: Option<String>,
    version: Option<String>,
    file_path: default!(Option<String>, "NULL"),
) -> String {
    let name = or_raise(item_name(item_type, item_id, version));
    let (row, outcome) = with_latest_snapshot(|mut verifier| verifier.verify_name(&name, file_path.as_deref()));
    let row = row.unwrap_or_else(|| match outcome.is_recorded {
        true => row_gone(&name).raise(),
        false => not_registered(&name).raise(),
    });
    or_raise(require_success(&name, outcome.verification));
    row.content
}

/// Signs, records, and writes the row.
fn sign(draft: &GivenItem, calls: Calls, signing: Signing, signer: Signer) -> Result<JsonbText, Failure> {
    let name = draft.name().map_err(failure)?;
    check_readable(draft, &name)?;
    let item = draft.item().map_err(failure)?;
    let (previous, depends_on) = with_latest_snapshot_to_sign(|verifier| {
        let entries = verifier.entries();
        // Looked up even if the item has no row: it may have been revoked a moment ago, and its row removed.
        let previous = entries.newest(&name);
        check_revocation(entries, &name, previous.as_ref(), signer)?;
        let depends_on = calls.pinned(entries, &name, previous.as_ref(), &signing)?;
        Ok((previous, depends_on))
    })?;
    // The entry has the time of the signature: so the ledger proves the row's time.
    let signed_at = entries::time_after(previous.as_ref());
    let signed = signer::sign(&item, signed_at).map_err(failure)?;
    let registration = Registration {
        name,
        event: signing.event(),
        location: signed.location.clone().unwrap_or_default(),
        integrity: signed.signature.integrity.clone(),
        text_hash: signed.text_hash.clone(),
        language: draft.language.clone(),
        depends_on,
    };
    let entry_id = entries::record(&registration, signed_at, signer.user)?;
    let metadata = draft.metadata.as_deref().unwrap_or("{}");
    let language = draft.language.as_deref();
    let row = SignedRow { registration: &registration, signed: &signed, metadata, language, entry_id };
    match signing {
        Signing::First if !row.insert() => return Err(already_registered(&registration.name)),
        Signing::First => {}
        Signing::Again | Signing::Move { .. } => row.update(),
    }
    Ok(receipt(&row, &signed))
}

fn receipt(row: &SignedRow<'_>, signed: &SignedItem) -> JsonbText {
    let mut receipt = name_receipt(&row.registration.name);
    receipt["location_path"] = json!(row.registration.location);
    receipt["integrity_hash"] = json!(row.registration.integrity);
    receipt["signed_at"] = json!(to_seconds(signed.signature.timestamp));
    receipt["entry_id"] = json!(row.entry_id.to_string());
    JsonbText::from(receipt)
}

fn name_receipt(name: &ItemName) -> Value {
    json!({"item_type": name.item_type.as_str(), "item_id": name.id, "version": name.version})
}

/// Only an administrator may sign a revoked item again: otherwise every signer could undo every revocation. An entry
/// that is gone, or that the log tree does not include, may have been a revocation.
fn check_revocation(
    entries: &ItemEntries,
    name: &ItemName,
    previous: Option<&ItemEntry>,
    signer: Signer,
) -> Result<(), Failure> {
    let Some(previous) = previous.filter(|_| !signer.is_admin) else { return Ok(()) };
    let gone = if previous.is_gone() { previous.registration(name).err() } else { None };
    if let Some(problem) = gone.or_else(|| entries.check_tree(previous).err()) {
        let id = previous.id().map(|id| format!("Entry {id}: ")).unwrap_or_default();
        let message = format!("only members of ledger_admin may sign {name} again");
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message).detail(format!("{id}{problem}.")));
    }
    if !previous.is_revocation() {
        return Ok(());
    }
    Err(Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("the signature of {name} was revoked"))
        .detail("Only members of ledger_admin may sign it again.")
        .hint("Sign the repaired item under a new version."))
}

/// The role that signs or revokes.
#[derive(Clone, Copy)]
struct Signer {
    user: pg_sys::Oid,
    is_admin: bool,
}

impl Signer {
    /// Asked before the work runs as the ledger's owner. The functions that sign or revoke are not SECURITY DEFINER:
    /// within such a function the calling role cannot be told if the caller is another such function, or one that an
    /// index uses.
    fn caller() -> Signer {
        let user = errorless::user();
        Signer { user, is_admin: roles::is_member(user, &roles::ADMIN) }
    }
}

fn unsigned(draft: &GivenItem) -> Result<String, ItemError> {
    Ok(LineFormat::of_unsigned(&draft.item()?)?.1.into_owned())
}

fn item_name(item_type: Option<&str>, item_id: Option<String>, version: Option<String>) -> Result<ItemName, Failure> {
    let item_type = required(item_type, "item_type").parse().map_err(failure)?;
    let name = ItemName { item_type, id: required(item_id, "item_id"), version: required(version, "version") };
    let item = Item {
        item_type,
        id: &name.id,
        version: &name.version,
        content: "",
        file_path: None,
        metadata: None,
        language: None,
    };
    item.check().map_err(failure)?;
    Ok(name)
}

fn lock(name: &ItemName) -> Result<GivenItem, Failure> {
    rows::lock(name).ok_or_else(|| not_registered(name))
}

fn not_registered(name: &ItemName) -> Failure {
    let what = format!("{} {name} is not registered", name.item_type);
    Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, what)
        .hint("SELECT ledger.create_item(...) signs and registers an item.")
}

/// The error for an item whose row is gone. It must not look like an item that was never there: that can be registered
/// anew, with another text.
fn row_gone(name: &ItemName) -> Failure {
    let what = format!("{} {name} has no row in ledger.items", name.item_type);
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, what)
        .detail(
            "It was registered: the ledger has entries about it. The row was removed without the ledger's functions.",
        )
        .hint(ROW_GONE_SOLUTION)
}

fn already_registered(name: &ItemName) -> Failure {
    let what = format!("{} {name} is already registered", name.item_type);
    Failure::new(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, what)
        .hint("SELECT ledger.sign_item(...) signs it again; a changed item can also have a new version.")
}

/// An item that does not verify is an ERROR, with what to do about it as its hint.
fn require_success(name: &ItemName, verification: Verification) -> Result<(), Failure> {
    let Verification { status, error: Some(error), solution, detail, .. } = verification else { return Ok(()) };
    let about = format!("{} {name}", name.item_type.title());
    let failure = Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, error).detail(match detail {
        Some(detail) => format!("{about}: {detail}."),
        None => format!("{about} was refused."),
    });
    let failure = match status {
        Status::Modified | Status::Mismatch => failure.and_detail("Review its text before it is signed again."),
        _ => failure,
    };
    Err(match solution {
        Some(solution) => failure.hint(solution),
        None => failure,
    })
}
