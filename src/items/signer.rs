//! Signing: putting an item's integrity hash into its own text.

use super::error::ItemError;
use super::item::{check_content_length, Item};
use super::location::check_location;
use super::payload::Payload;
use super::signature_line::{LineFormat, SignatureLine};
use crate::ledger::record::Timestamp;
use crate::ledger::sha256_hex;

/// An item that has been signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedItem {
    /// The text with its new signature line, in place of all it had.
    pub content: String,
    /// What the line says.
    pub signature: SignatureLine,
    /// The item's path below the base of its type.
    pub location: Option<String>,
    /// SHA-256 of the whole text without signature lines, 64 lower-case hex digits.
    pub text_hash: String,
}

/// Signs `item` as of `timestamp`, which is written to the second.
///
/// # Errors
/// If the item is not one, if it is stored at what is no location, or if its text is over 1 GB with the signature line.
pub fn sign(item: &Item<'_>, timestamp: Timestamp) -> Result<SignedItem, ItemError> {
    let format = LineFormat::of(item)?;
    let payload = Payload::of(item)?;
    payload.location().map(|location| check_location(item.item_type, location)).transpose()?;
    let signature = SignatureLine { timestamp, integrity: payload.integrity() };
    let content = format.replace(item.content, &signature);
    check_content_length(content.len() as u64)?;
    Ok(SignedItem {
        content,
        signature,
        location: payload.location().map(str::to_owned),
        text_hash: sha256_hex(format.remove(item.content).as_bytes()),
    })
}

/// SHA-256 of the whole text of `item` without signature lines, 64 lower-case hex digits. It covers what an integrity
/// hash leaves out, such as the text around a directive.
///
/// # Errors
/// If the language of a tool is not known or has no comments.
pub fn text_hash(item: &Item<'_>) -> Result<String, ItemError> {
    let unsigned = LineFormat::of(item)?.remove(item.content);
    Ok(sha256_hex(unsigned.as_bytes()))
}
