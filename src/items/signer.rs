//! Signing: putting an item's integrity hash into its own text. What does not verify afterwards is not signed.

use super::directive;
use super::error::ItemError;
use super::item::{check_content_length, Item};
use super::item_type::ItemType;
use super::location::check_location;
use super::payload::Payload;
use super::signature_line::{LineFormat, SignatureLine};
use super::verifier::verify;
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
/// If the item is not one, is stored at what is no location, its text is over 1 GB with the signature line, or a
/// directive is not well-formed; or if the signature line would be no comment, or the signed text would not verify.
pub fn sign(item: &Item<'_>, timestamp: Timestamp) -> Result<SignedItem, ItemError> {
    let (format, unsigned) = LineFormat::of_unsigned(item)?;
    let payload = Payload::of(item)?;
    payload.location().map(|location| check_location(item.item_type, location)).transpose()?;
    format.check_place(&unsigned)?;
    if item.item_type == ItemType::Directive {
        directive::check(item.content)?;
    }
    let signature = SignatureLine { timestamp, integrity: payload.integrity() };
    let content = format.replace(&unsigned, &signature);
    check_content_length(content.len() as u64)?;
    check_signed(&Item { content: &content, ..*item })?;
    Ok(SignedItem {
        content,
        signature,
        location: payload.location().map(str::to_owned),
        text_hash: sha256_hex(unsigned.as_bytes()),
    })
}

/// Checks that an item verifies as it was signed. Otherwise it must be neither written nor recorded: nobody could use
/// it.
fn check_signed(item: &Item<'_>) -> Result<(), ItemError> {
    match verify(item, &[])?.error {
        Some(error) => Err(ItemError::Unverifiable(error)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Place;

    #[test]
    fn what_does_not_verify_as_it_was_signed_is_refused() {
        let item = Item {
            item_type: ItemType::Tool,
            id: "x",
            version: "1.0.0",
            content: "print()\n",
            file_path: Some(Place::Path("x.py")),
            metadata: None,
            language: None,
        };
        let signed = sign(&item, Timestamp::default()).unwrap();
        check_signed(&Item { content: &signed.content, ..item }).unwrap();
        let changed = signed.content.replace("print", "eval");
        for (other, error) in [
            (item, "Tool has no signature"),
            (Item { content: &changed, ..item }, "Content has been modified since last validation"),
            (
                Item { content: &signed.content, version: "1.0.1", ..item },
                "Content has been modified since last validation",
            ),
        ] {
            assert_eq!(check_signed(&other), Err(ItemError::Unverifiable(error.to_owned())));
        }
    }
}
