//! The SQL functions that hash and sign the text of an item, and store nothing.

use super::failure;
use crate::items::item::Item;
use crate::items::payload::Payload;
use crate::items::signature_line::LineFormat;
use crate::items::{signer, ItemType, Place};
use crate::postgres::errors::{or_raise, required};
use crate::postgres::jsonb::Jsonb;
use crate::postgres::tables;
use pgrx::prelude::*;

#[pg_extern(immutable, parallel_safe)]
#[allow(clippy::too_many_arguments, reason = "the parts of an item")]
fn compute_unified_integrity(
    item_type: Option<&str>,
    item_id: Option<&str>,
    version: Option<&str>,
    file_content: Option<&str>,
    file_path: default!(Option<&str>, "NULL"),
    metadata: default!(Option<Jsonb>, "NULL"),
    language: default!(Option<&str>, "NULL"),
) -> String {
    let metadata = metadata.map(Jsonb::text);
    let item = Item {
        item_type: or_raise(type_of(item_type)),
        id: required(item_id, "item_id"),
        version: required(version, "version"),
        content: required(file_content, "file_content"),
        file_path: file_path.map(Place::Path),
        metadata: metadata.as_deref(),
        language,
    };
    or_raise(Payload::of(&item).map_err(failure)).integrity()
}

#[pg_extern(stable, parallel_safe)]
#[allow(clippy::too_many_arguments, reason = "the parts of an item")]
fn sign_content(
    item_type: Option<&str>,
    item_id: Option<&str>,
    version: Option<&str>,
    file_content: Option<&str>,
    file_path: default!(Option<&str>, "NULL"),
    metadata: default!(Option<Jsonb>, "NULL"),
    language: default!(Option<&str>, "NULL"),
    signed_at: default!(Option<TimestampWithTimeZone>, "pg_catalog.now()"),
) -> String {
    let metadata = metadata.map(Jsonb::text);
    let item = Item {
        item_type: or_raise(type_of(item_type)),
        id: required(item_id, "item_id"),
        version: required(version, "version"),
        content: required(file_content, "file_content"),
        file_path: file_path.map(Place::Path),
        metadata: metadata.as_deref(),
        language,
    };
    let signed_at = or_raise(super::timestamp(required(signed_at, "signed_at")));
    or_raise(signer::sign(&item, signed_at).map_err(failure)).content
}

/// One row, or none if the content has no signature line.
#[pg_extern(immutable, parallel_safe)]
fn get_signature(
    item_type: Option<&str>,
    file_content: Option<&str>,
    file_path: default!(Option<&str>, "NULL"),
    language: default!(Option<&str>, "NULL"),
) -> TableIterator<'static, (name!(signed_at, TimestampWithTimeZone), name!(hash, String))> {
    let item = unnamed(item_type, file_content, file_path, language);
    let signature = or_raise(LineFormat::of(&item).map_err(failure)).extract(item.content);
    let row = signature.map(|signature| {
        let micros = tables::timestamp_to_postgres(signature.timestamp);
        let signed_at = TimestampWithTimeZone::try_from(micros).expect("a signature line states years from 1 to 9999");
        (signed_at, signature.integrity)
    });
    TableIterator::new(row)
}

#[pg_extern(immutable, parallel_safe)]
fn remove_signature(
    item_type: Option<&str>,
    file_content: Option<&str>,
    file_path: default!(Option<&str>, "NULL"),
    language: default!(Option<&str>, "NULL"),
) -> String {
    let item = unnamed(item_type, file_content, file_path, language);
    or_raise(LineFormat::of_unsigned(&item).map_err(failure)).1.into_owned()
}

/// An item of which only the signature line matters.
fn unnamed<'a>(
    item_type: Option<&str>,
    file_content: Option<&'a str>,
    file_path: Option<&'a str>,
    language: Option<&'a str>,
) -> Item<'a> {
    let content = required(file_content, "file_content");
    let item_type = or_raise(type_of(item_type));
    let file_path = file_path.map(Place::Path);
    Item { item_type, id: "", version: "", content, file_path, metadata: None, language }
}

fn type_of(name: Option<&str>) -> Result<ItemType, crate::postgres::errors::Failure> {
    required(name, "item_type").parse().map_err(failure)
}
