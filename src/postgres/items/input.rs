//! The items to verify: as callers give them, or as the registry has them.

use super::failure;
use crate::items::attributes::Attributes;
use crate::items::item::Item;
use crate::items::lists::{self, ListError, ListedItem, ListedText};
use crate::items::registration::ItemName;
use crate::items::{ItemError, Place};
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::Jsonb;
use pgrx::PgSqlErrorCode;

/// Where the hash is stored that an item is compared with.
#[derive(Debug, Clone)]
pub enum Stored {
    /// In its signature line alone.
    InContent,
    /// Also elsewhere, as in the registry. `None` if no hash is stored there.
    Elsewhere(Option<String>),
}

/// An item to verify.
#[derive(Debug, Clone)]
pub struct GivenItem {
    pub item_type: String,
    pub id: String,
    pub version: String,
    pub content: String,
    /// A path from outside; `None` if none is given.
    pub file_path: Option<String>,
    /// JSON text.
    pub metadata: Option<String>,
    pub language: Option<String>,
    pub stored: Stored,
    /// The location in the row of the registry, if the item is from there: then the ledger must have an entry about it.
    /// The item is there, unless a path is given.
    pub registered_at: Option<String>,
    /// Why it was revoked, according to the registry.
    pub revoked: Option<String>,
}

impl GivenItem {
    pub fn is_registered(&self) -> bool {
        self.registered_at.is_some()
    }

    pub fn name(&self) -> Result<ItemName, ItemError> {
        let item_type = self.item_type.parse()?;
        Ok(ItemName { item_type, id: self.id.clone(), version: self.version.clone() })
    }

    fn place(&self) -> Option<Place<'_>> {
        let given = self.file_path.as_deref().map(Place::Path);
        given.or(self.registered_at.as_deref().map(Place::Location))
    }

    pub fn item(&self) -> Result<Item<'_>, ItemError> {
        Ok(Item {
            item_type: self.item_type.parse()?,
            id: &self.id,
            version: &self.version,
            content: &self.content,
            file_path: self.place(),
            metadata: self.metadata.as_deref(),
            language: self.language.as_deref(),
        })
    }
}

/// The id and version of a new item: as given, or else as its text states them. If they differ, what is given counts,
/// with a NOTICE: programs that read the file, such as the one that signs files, will name the item by its text.
pub fn id_and_version(
    item_id: Option<String>,
    version: Option<String>,
    own: Result<Attributes, ItemError>,
) -> Result<(String, String), Failure> {
    let own = match own {
        // If both are given, signing will say what is wrong with the text.
        Err(_) if item_id.is_some() && version.is_some() => Attributes::default(),
        own => own.map_err(failure)?,
    };
    let name = |parameter: &str, given: Option<String>, own: Option<String>| {
        if let Some((given, own)) = given.as_ref().zip(own.as_ref()).filter(|(given, own)| given != own) {
            pgrx::notice!("the {parameter} is {given}, but the text says {own}");
        }
        let stated = given.or(own);
        stated.ok_or_else(|| {
            Failure::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{parameter} must not be null"))
                .detail("It may be omitted if the text states it, but the text does not.")
        })
    };
    Ok((name("item_id", item_id, own.id)?, name("version", version, own.version)?))
}

/// An item of a list: given with its content, or by the name under which it is registered.
pub enum Listed {
    Given(Box<GivenItem>),
    Registered(ItemName),
}

impl Listed {
    fn of(listed: ListedItem) -> Result<Listed, Failure> {
        let ListedItem { item_type, id, version, text } = listed;
        let Some(text) = text else {
            let item_type = item_type.parse().map_err(failure)?;
            return Ok(Listed::Registered(ItemName { item_type, id, version }));
        };
        let ListedText { content, file_path, metadata, language, stored_hash } = text;
        Ok(Listed::Given(Box::new(GivenItem {
            item_type,
            id,
            version,
            content,
            file_path,
            metadata,
            language,
            stored: stored_hash.map_or(Stored::InContent, Stored::Elsewhere),
            registered_at: None,
            revoked: None,
        })))
    }

    /// `ID@VERSION`
    pub fn shown(&self) -> String {
        match self {
            Listed::Given(given) => format!("{}@{}", given.id, given.version),
            Listed::Registered(name) => name.to_string(),
        }
    }
}

/// The items in a JSON array.
pub fn read_list(items: Jsonb) -> Result<Vec<Listed>, Failure> {
    let listed = lists::read_items(&items.text()).map_err(|error| {
        bad_list(
            error,
            "",
            "Each item is an object with item_type, item_id and version; give file_content, and file_path, metadata, \
             language and stored_hash as needed, or leave all of these out to use what the registry has.",
        )
    })?;
    listed.into_iter().map(Listed::of).collect()
}

/// The error for a list that cannot be read; `about` stands before what is wrong.
pub fn bad_list(error: ListError, about: &str, hint: &str) -> Failure {
    let (message, detail) = match error {
        ListError::Item(error) => return failure(error),
        ListError::Bad { message, detail } => (message, detail),
    };
    let refused = Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("{about}{message}")).hint(hint);
    match detail {
        Some(detail) => refused.detail(detail),
        None => refused,
    }
}
