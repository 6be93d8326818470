//! What an item is: its type, id, version and text.

use super::error::{ItemError, SHOWN};
use super::item_type::{ItemType, MAX_CONTENT, MAX_ID, MAX_METADATA};
use super::location::Place;
use crate::ledger::shortened;
use semver::Version;
use std::str::FromStr;

/// An item as it is given to be hashed, signed or verified.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub item_type: ItemType,
    /// `tool_id`, `directive_name` or `zettel_id`.
    pub id: &'a str,
    /// A semantic version.
    pub version: &'a str,
    /// The text of the file, with or without a signature line.
    pub content: &'a str,
    /// Where the file is.
    pub file_path: Option<Place<'a>>,
    /// JSON text of an object: a tool's manifest, a directive's metadata, or knowledge's `category`, `entry_type` and
    /// `tags`, each of which is taken from the front matter when it is not here. `None` and JSON null are the same.
    pub metadata: Option<&'a str>,
    /// The language whose comments hold a tool's signature line, if the extension of its file does not decide.
    pub language: Option<&'a str>,
}

impl Item<'_> {
    /// Checks what can be told without reading the content.
    ///
    /// # Errors
    /// If the content or the metadata is too long, or the id or the version is not one.
    pub fn check(&self) -> Result<(), ItemError> {
        check_content_length(self.content.len() as u64)?;
        check_id(self.id)?;
        check_version(self.version)?;
        match self.metadata {
            Some(metadata) if metadata.len() > MAX_METADATA => Err(ItemError::MetadataTooLong(metadata.len())),
            _ => Ok(()),
        }
    }
}

/// Checks that a content of so many bytes can be an item's.
///
/// # Errors
/// If it is over [`MAX_CONTENT`].
pub fn check_content_length(bytes: u64) -> Result<(), ItemError> {
    if bytes > MAX_CONTENT as u64 {
        return Err(ItemError::ContentTooLong(bytes));
    }
    Ok(())
}

/// Checks that `id` can be an item's id.
///
/// # Errors
/// If it is empty, has more than [`MAX_ID`] characters, or has a control character.
pub fn check_id(id: &str) -> Result<(), ItemError> {
    let length = id.chars().take(MAX_ID + 1).count();
    if length == 0 || length > MAX_ID || id.chars().any(char::is_control) {
        return Err(ItemError::BadId(shortened(id, SHOWN)));
    }
    Ok(())
}

/// Checks that `version` is a semantic version (<https://semver.org>), and not 0.0.0 or one before it.
///
/// # Errors
/// If it is not.
pub fn check_version(version: &str) -> Result<(), ItemError> {
    let refused = |reason: String| Err(ItemError::BadVersion { version: shortened(version, SHOWN), reason });
    match Version::parse(version) {
        Ok(Version { major: 0, minor: 0, patch: 0, .. }) => refused("0.0.0 stands for no version".to_owned()),
        Ok(_) if version.len() > MAX_ID => refused(format!("it has more than {MAX_ID} characters")),
        Ok(_) => Ok(()),
        Err(error) => refused(error.to_string()),
    }
}

impl FromStr for ItemType {
    type Err = ItemError;

    fn from_str(name: &str) -> Result<Self, ItemError> {
        let known = ItemType::ALL.into_iter().find(|item_type| item_type.as_str() == name);
        known.ok_or_else(|| ItemError::UnknownType(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_three_types_are_known() {
        for item_type in ItemType::ALL {
            assert_eq!(item_type.as_str().parse(), Ok(item_type));
        }
        for name in ["", "Tool", "tools", "script", "tool "] {
            assert_eq!(name.parse::<ItemType>(), Err(ItemError::UnknownType(name.to_owned())));
        }
    }

    #[test]
    fn only_semantic_versions_are_taken_and_0_0_0_is_refused() {
        for version in ["1.0.0", "0.0.1", "10.20.30", "1.0.0-rc.1", "1.0.0+build.5", "0.1.0-alpha"] {
            assert_eq!(check_version(version), Ok(()), "{version}");
        }
        for version in
            ["", "1", "1.0", "v1.0.0", "1.0.0 ", "01.0.0", "1.0.0-", "1.0.0.0", "latest", "0.0.0", "0.0.0-a", "0.0.0+b"]
        {
            assert!(check_version(version).is_err(), "{version}");
        }
        let long = format!("1.0.0-{}", "a".repeat(1000));
        let error = check_version(&long).unwrap_err().to_string();
        let shown = &long[..80];
        assert_eq!(
            error,
            format!(
                "\"{shown}…\" is not a semantic version (it has more than 255 characters): write one such as 1.0.0"
            )
        );
        let error = check_version("1.0").unwrap_err().to_string();
        assert!(
            error.starts_with("\"1.0\" is not a semantic version (") && error.ends_with("such as 1.0.0"),
            "{error}"
        );
    }

    #[test]
    fn an_id_has_1_to_255_characters_and_no_control_characters() {
        for id in ["x", "20260126-example", "日本", &"é".repeat(255)] {
            assert_eq!(check_id(id), Ok(()), "{id}");
        }
        for id in ["", "a\nb", "a\0", &"é".repeat(256)] {
            let error = check_id(id).unwrap_err().to_string();
            assert!(error.chars().count() < 200, "{error}");
        }
    }

    #[test]
    fn more_than_1_gb_of_content_is_refused() {
        assert_eq!(check_content_length(1_000_000_000), Ok(()));
        assert_eq!(check_content_length(1_000_000_001), Err(ItemError::ContentTooLong(1_000_000_001)));
    }
}
