//! The lists of items that callers give as JSON: what to verify, and what an item calls.
//!
//! A member that would not be looked at is refused, and so is null in place of what has to be checked: a caller who
//! gives it relies on it.

use super::error::{ItemError, SHOWN};
use super::item_type::ItemType;
use super::registration::{ItemName, MAX_DEPENDENCIES};
use crate::ledger::shortened;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What is wrong with a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListError {
    /// An element names what cannot be an item.
    Item(ItemError),
    /// It is not made as it has to be: what is wrong, and why that matters if it is not plain.
    Bad { message: String, detail: Option<String> },
}

impl From<ItemError> for ListError {
    fn from(error: ItemError) -> Self {
        ListError::Item(error)
    }
}

impl ListError {
    pub(super) fn new(message: String) -> Self {
        ListError::Bad { message, detail: None }
    }

    fn unchecked(message: String, detail: &str) -> Self {
        ListError::Bad { message, detail: Some(detail.to_owned()) }
    }
}

/// An item to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedItem {
    pub item_type: String,
    pub id: String,
    pub version: String,
    /// `None` if the registered item is meant.
    pub text: Option<ListedText>,
}

/// The text of an item to verify, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedText {
    pub content: String,
    pub file_path: Option<String>,
    /// JSON text, so that its numbers keep their digits.
    pub metadata: Option<String>,
    pub language: Option<String>,
    /// `Some(None)` if the caller has looked for one, and there is none.
    pub stored_hash: Option<Option<String>>,
}

/// An item that another is to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: ItemName,
    /// The integrity hash that it must have, if one is required.
    pub integrity: Option<String>,
}

const NAME: [&str; 3] = ["item_type", "item_id", "version"];
const CONTENT: &str = "file_content";
const BESIDES_CONTENT: [&str; 4] = ["file_path", "metadata", "language", "stored_hash"];
const INTEGRITY: &str = "integrity_hash";

/// Reads the items to verify.
pub fn read_items(list: &str) -> Result<Vec<ListedItem>, ListError> {
    let not_a_list = || ListError::new("items must be a JSON array of objects".to_owned());
    let elements = elements(list).ok_or_else(not_a_list)?;
    let read = |(index, element): (usize, &RawValue)| {
        Element::read(format!("items[{index}]"), element).ok_or_else(not_a_list)?.item()
    };
    elements.into_iter().enumerate().map(read).collect()
}

/// Reads the items that an item is to call.
pub fn read_calls(list: &str) -> Result<Vec<Call>, ListError> {
    let elements = elements(list).ok_or_else(|| ListError::new("it is not an array".to_owned()))?;
    if elements.len() > MAX_DEPENDENCIES {
        return Err(ListError::new(format!("it has more than {MAX_DEPENDENCIES} elements")));
    }
    let read = |(index, element): (usize, &RawValue)| {
        let no_name = || ListError::new(format!("element {index} does not name an item"));
        Element::read(format!("element {index}"), element).ok_or_else(no_name)?.call()
    };
    elements.into_iter().enumerate().map(read).collect()
}

/// `None` if it is no array. What the elements hold is not read, however deep it is.
fn elements(list: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(list).ok()
}

struct Element<'a> {
    /// How errors name it.
    shown: String,
    members: BTreeMap<String, &'a RawValue>,
}

impl<'a> Element<'a> {
    fn read(shown: String, element: &'a RawValue) -> Option<Self> {
        let members = serde_json::from_str(element.get()).ok()?;
        Some(Element { shown, members })
    }

    fn item(&self) -> Result<ListedItem, ListError> {
        let known: Vec<&str> = NAME.into_iter().chain([CONTENT]).chain(BESIDES_CONTENT).collect();
        self.refuse_all_but(&known)?;
        let [item_type, id, version] = self.name()?;
        Ok(ListedItem { item_type, id, version, text: self.item_text()? })
    }

    fn item_text(&self) -> Result<Option<ListedText>, ListError> {
        let Some(content) = self.text_to_check(CONTENT)? else {
            return match BESIDES_CONTENT.into_iter().find(|name| self.members.contains_key(*name)) {
                None => Ok(None),
                Some(name) => Err(ListError::unchecked(
                    format!("{} has {name}, but no {CONTENT}", self.shown),
                    &format!("Without {CONTENT} it means the registered item, and {name} would go unchecked."),
                )),
            };
        };
        let has_stored_hash = self.members.contains_key("stored_hash");
        Ok(Some(ListedText {
            content,
            file_path: self.text("file_path")?,
            metadata: self.members.get("metadata").map(|value| value.get().to_owned()),
            language: self.text("language")?,
            stored_hash: has_stored_hash.then(|| self.text("stored_hash")).transpose()?,
        }))
    }

    fn call(&self) -> Result<Call, ListError> {
        let known: Vec<&str> = NAME.into_iter().chain([INTEGRITY]).collect();
        self.refuse_all_but(&known)?;
        let [item_type, id, version] = self.name()?;
        let item_type = item_type.parse::<ItemType>()?;
        Ok(Call { name: ItemName { item_type, id, version }, integrity: self.text_to_check(INTEGRITY)? })
    }

    fn refuse_all_but(&self, known: &[&str]) -> Result<(), ListError> {
        match self.members.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let name = shortened(name, SHOWN);
                Err(ListError::new(format!("{} has an unknown member \"{name}\"", self.shown)))
            }
        }
    }

    fn name(&self) -> Result<[String; 3], ListError> {
        let required =
            |name: &str| self.text(name)?.ok_or_else(|| ListError::new(format!("{} has no {name}", self.shown)));
        let [item_type, id, version] = NAME;
        Ok([required(item_type)?, required(id)?, required(version)?])
    }

    /// A string. `None` if there is none, or null in its place.
    fn text(&self, name: &str) -> Result<Option<String>, ListError> {
        let Some(value) = self.members.get(name) else { return Ok(None) };
        serde_json::from_str(value.get())
            .map_err(|_| ListError::new(format!("{name} of {} must be a string", self.shown)))
    }

    /// The same for what decides whether something is checked: that must not be null.
    fn text_to_check(&self, name: &str) -> Result<Option<String>, ListError> {
        let text = self.text(name)?;
        if text.is_none() && self.members.contains_key(name) {
            let message = format!("{name} of {} is null", self.shown);
            return Err(ListError::unchecked(message, "What came out as null would go unchecked."));
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(members: &str) -> String {
        format!(r#"[{{"item_type": "tool", "item_id": "a", "version": "1.0.0"{members}}}]"#)
    }

    #[track_caller]
    fn assert_bad<T: std::fmt::Debug>(read: Result<T, ListError>, expected: &str) {
        match read {
            Err(ListError::Bad { message, .. }) => assert_eq!(message, expected),
            other => panic!("{other:?}, not {expected}"),
        }
    }

    #[test]
    fn a_text_is_read_with_all_that_is_given_with_it() {
        let members = r#", "file_content": "x", "file_path": "a.py", "metadata": {"n": 1.0e400}, "language": null"#;
        let text = ListedText {
            content: "x".to_owned(),
            file_path: Some("a.py".to_owned()),
            metadata: Some(r#"{"n": 1.0e400}"#.to_owned()),
            language: None,
            stored_hash: None,
        };
        let read = |members: &str| read_items(&element(members)).unwrap().remove(0).text;
        assert_eq!(read(members), Some(text.clone()));
        let with_hash =
            |hash: Option<&str>| Some(ListedText { stored_hash: Some(hash.map(str::to_owned)), ..text.clone() });
        assert_eq!(read(&format!(r#"{members}, "stored_hash": "ab""#)), with_hash(Some("ab")));
        assert_eq!(read(&format!(r#"{members}, "stored_hash": null"#)), with_hash(None));
        assert_eq!(read(""), None);
    }

    #[test]
    fn what_would_go_unchecked_without_a_text_is_refused() {
        for name in BESIDES_CONTENT {
            for value in [r#""x""#, "{}", "null"] {
                let read = read_items(&element(&format!(r#", "{name}": {value}"#)));
                assert_bad(read.clone(), &format!("items[0] has {name}, but no file_content"));
                let Err(ListError::Bad { detail: Some(detail), .. }) = read else { panic!("{read:?}") };
                assert!(detail.contains("the registered item") && detail.contains(name), "{detail}");
            }
        }
    }

    #[test]
    fn a_text_that_came_out_as_null_is_not_taken_for_none() {
        for members in [r#", "file_content": null"#, r#", "file_content": null, "stored_hash": "x""#] {
            assert_bad(read_items(&element(members)), "file_content of items[0] is null");
        }
    }

    #[test]
    fn a_hash_that_a_call_requires_is_not_passed_over() {
        let read = |members: &str| read_calls(&element(members));
        let name = ItemName { item_type: ItemType::Tool, id: "a".to_owned(), version: "1.0.0".to_owned() };
        let call =
            |integrity: Option<&str>| Ok(vec![Call { name: name.clone(), integrity: integrity.map(str::to_owned) }]);
        assert_eq!(read(""), call(None));
        assert_eq!(read(r#", "integrity_hash": "ab""#), call(Some("ab")));
        for value in ["12345", r#"["x"]"#, "{}", "true"] {
            assert_bad(
                read(&format!(r#", "integrity_hash": {value}"#)),
                "integrity_hash of element 0 must be a string",
            );
        }
        assert_bad(read(r#", "integrity_hash": null"#), "integrity_hash of element 0 is null");
        assert_bad(read(r#", "integrity-hash": "ab""#), "element 0 has an unknown member \"integrity-hash\"");
    }

    #[test]
    fn an_unknown_member_is_named_however_deep_it_is_and_however_long_its_name() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let members = format!(r#", "x": {deep}"#);
        assert_bad(read_calls(&element(&members)), "element 0 has an unknown member \"x\"");
        assert_bad(read_items(&element(&members)), "items[0] has an unknown member \"x\"");
        let members = format!(r#", "{}": 1"#, "y".repeat(1000));
        let expected = format!("items[0] has an unknown member \"{}…\"", "y".repeat(SHOWN));
        assert_bad(read_items(&element(&members)), &expected);
    }

    #[test]
    fn what_is_no_list_of_items_is_named() {
        for list in ["{}", "1", "null", "", "[1]"] {
            assert_bad(read_items(list), "items must be a JSON array of objects");
        }
        assert_bad(read_items(r#"[{"item_type": 1}]"#), "item_type of items[0] must be a string");
        assert_bad(read_items(r#"[{"item_type": "tool", "item_id": null}]"#), "items[0] has no item_id");
        // Verification says so of the one item, and goes on.
        let other = element("").replace("tool", "script");
        assert_eq!(read_items(&other).unwrap()[0].item_type, "script");
    }

    #[test]
    fn what_is_no_list_of_calls_is_named() {
        for list in ["{}", "null", ""] {
            assert_bad(read_calls(list), "it is not an array");
        }
        assert_bad(read_calls("[1]"), "element 0 does not name an item");
        assert_bad(read_calls(r#"[{"item_type": "tool"}]"#), "element 0 has no item_id");
        let other = element("").replace("tool", "script");
        assert_eq!(read_calls(&other), Err(ListError::Item(ItemError::UnknownType("script".to_owned()))));
        let many = format!("[{}1]", "1,".repeat(MAX_DEPENDENCIES));
        assert_bad(read_calls(&many), "it has more than 10000 elements");
    }
}
