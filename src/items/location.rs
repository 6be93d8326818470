//! Where an item is: its path below the directory of its type.
//!
//! A path from outside leads to a location, which is then what is hashed, recorded and compared. A location is never
//! converted again: `~/x.py` and `q/.ai/tools/x.py` are locations, and as paths from outside they lead elsewhere.

use super::error::ItemError;
use super::item_type::ItemType;
use std::borrow::Cow;

/// The longest path, in bytes: what Linux calls PATH_MAX.
const MAX_PATH: usize = 4096;

/// The directory of a project that holds the directories of the types.
pub const PROJECT_DIRECTORY: &str = ".ai";

const BAD_LENGTH: &str = "it must have 1 to 4096 bytes";
const BAD_PART: &str = "a part of it is empty, . or ..";

/// Where an item is, as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// A path from outside, as a person or a program names the file; see [`extract_location_path`].
    Path(&'a str),
    /// A location that a path once led to, as it was stored.
    Location(&'a str),
}

impl<'a> Place<'a> {
    /// The location. One that was stored is taken as it is: whoever compares it sees whether it is the right one.
    ///
    /// # Errors
    /// As [`extract_location_path`], for a path from outside.
    pub fn location(self, item_type: ItemType) -> Result<Cow<'a, str>, ItemError> {
        match self {
            Place::Path(path) => extract_location_path(item_type, path).map(Cow::Owned),
            Place::Location(location) => Ok(Cow::Borrowed(location)),
        }
    }

    /// The text of either, which ends with the name of the file.
    pub fn text(self) -> &'a str {
        match self {
            Place::Path(text) | Place::Location(text) => text,
        }
    }
}

/// The path of an item relative to `.ai/tools/`, `.ai/directives/` or `.ai/knowledge/`, with `/` between its parts.
///
/// For paths from outside alone: what this returns need not lead to itself. A relative path without `.ai` is taken as
/// already relative to its base. If the base occurs more than once, the first counts, so that nothing below a base
/// moves unnoticed. `\` separates parts as `/` does.
///
/// # Errors
/// If the path is absolute, or goes through `.ai`, and is not below the base of `item_type`; if it has parts that are
/// empty, `.` or `..`; or if it is empty or over 4096 bytes.
pub fn extract_location_path(item_type: ItemType, file_path: &str) -> Result<String, ItemError> {
    let refused = |reason| Err(ItemError::BadLocation { item_type, path: start_of(file_path), reason });
    if !is_of_good_length(file_path) {
        return refused(BAD_LENGTH);
    }
    let path = file_path.replace('\\', "/");
    let rooted = path.strip_prefix('/');
    let parts: Vec<&str> = rooted.unwrap_or(&path).split('/').collect();
    if has_bad_part(&parts) {
        return refused(BAD_PART);
    }
    if let Some(base) = base_in(&parts, item_type) {
        return match &parts[base + 2..] {
            [] => refused("it is the directory itself"),
            below => Ok(below.join("/")),
        };
    }
    if rooted.is_some() || starts_elsewhere(&parts) || parts.contains(&PROJECT_DIRECTORY) {
        return refused("it is outside");
    }
    Ok(path)
}

/// Checks that `location` can be one: that some path from outside leads to it.
///
/// # Errors
/// If it starts with `/`, has parts that are empty, `.` or `..`, contains a backslash, or is empty or over 4096 bytes.
pub fn check_location(item_type: ItemType, location: &str) -> Result<(), ItemError> {
    let parts: Vec<&str> = location.split('/').collect();
    let reason = if !is_of_good_length(location) {
        BAD_LENGTH
    } else if location.starts_with('/') {
        "it starts with /"
    } else if has_bad_part(&parts) {
        BAD_PART
    } else if location.contains('\\') {
        "it contains a backslash"
    } else {
        return Ok(());
    };
    Err(ItemError::NoLocation { item_type, location: start_of(location), reason })
}

fn is_of_good_length(path: &str) -> bool {
    (1..=MAX_PATH).contains(&path.len())
}

fn has_bad_part(parts: &[&str]) -> bool {
    parts.iter().any(|part| matches!(*part, "" | "." | ".."))
}

/// As much of a path as an error holds.
fn start_of(path: &str) -> String {
    path.chars().take(MAX_PATH).collect()
}

/// The index of the part `.ai` of the first `.ai/tools` or its like.
fn base_in(parts: &[&str], item_type: ItemType) -> Option<usize> {
    parts.windows(2).position(|pair| pair.join("/") == item_type.base())
}

/// Whether the path starts at a home directory or at a drive of Windows.
fn starts_elsewhere(parts: &[&str]) -> bool {
    let first = parts[0].as_bytes();
    let home = first[0] == b'~' && parts.len() > 1;
    home || (first.len() > 1 && first[0].is_ascii_alphabetic() && first[1] == b':')
}

/// The last part of a path, after the last `/` or `\`.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tool(path: &str) -> Option<String> {
        extract_location_path(ItemType::Tool, path).ok()
    }

    #[test]
    fn a_location_is_relative_to_the_base_of_its_type() {
        for path in [
            "core/api/x.py",
            ".ai/tools/core/api/x.py",
            "project/.ai/tools/core/api/x.py",
            "/srv/p/.ai/tools/core/api/x.py",
            "~/.ai/tools/core/api/x.py",
            "C:\\p\\.ai\\tools\\core\\api\\x.py",
            "core\\api/x.py",
        ] {
            assert_eq!(tool(path).as_deref(), Some("core/api/x.py"), "{path}");
        }
        let directive = extract_location_path(ItemType::Directive, "/p/.ai/directives/x.md");
        assert_eq!(directive.as_deref(), Ok("x.md"));
        let knowledge = extract_location_path(ItemType::Knowledge, "/p/.ai/knowledge/a/x.md");
        assert_eq!(knowledge.as_deref(), Ok("a/x.md"));
    }

    #[test]
    fn the_first_base_counts() {
        assert_eq!(tool("/p/.ai/tools/q/.ai/tools/x.py").as_deref(), Some("q/.ai/tools/x.py"));
    }

    #[test]
    fn a_path_that_leaves_its_base_is_refused() {
        for path in [
            "",
            "/",
            "/x.py",
            "/srv/tools/x.py",
            "~/x.py",
            "C:\\x.py",
            "C:x.py",
            ".ai/knowledge/x.py",
            "/p/.ai/knowledge/x.py",
            "/p/.ai/tools",
            "/p/.ai/tools/",
            "/p/.ai/toolsx/y.py",
            "/p/.ai/tools/../x.py",
            "../x.py",
            "a/../x.py",
            "./x.py",
            "a//x.py",
            "a/",
            "\\\\host\\share\\.ai\\tools\\x.py",
            "a\\..\\x.py",
        ] {
            assert_eq!(tool(path), None, "{path}");
        }
        assert_eq!(tool(&"x".repeat(4097)), None);
        let error = extract_location_path(ItemType::Tool, "/etc/passwd").unwrap_err().to_string();
        assert_eq!(error, "\"/etc/passwd\" is not the path of a tool below .ai/tools: it is outside");
    }

    #[test]
    fn names_that_only_look_like_parents_are_taken() {
        for path in ["...", "..x/y.py", "~x.py", "a/~/y.py", ".hidden", "é:x"] {
            assert_eq!(tool(path).as_deref(), Some(path));
        }
    }

    /// As paths from outside, these lead elsewhere or nowhere.
    #[test]
    fn a_location_is_not_converted_again() {
        for location in ["Q: why.md", "~/x.py", "C:/x.py", "q/.ai/tools/x.py", ".ai/x.py", ".ai/tools/x.py"] {
            let path = format!("/p/.ai/tools/{location}");
            assert_eq!(tool(&path).as_deref(), Some(location));
            assert_ne!(tool(location).as_deref(), Some(location));
            assert_eq!(Place::Location(location).location(ItemType::Tool).as_deref(), Ok(location));
            assert_eq!(check_location(ItemType::Tool, location), Ok(()));
        }
        let outside = Place::Path("q/.ai/tools/x.py").location(ItemType::Tool);
        assert_eq!(outside.as_deref(), Ok("x.py"));
    }

    #[test]
    fn what_no_path_leads_to_is_no_location() {
        let long = "x".repeat(4097);
        for location in
            ["", "/", "/x.py", "/p/.ai/tools/x.py", "../x.py", "a/./x.py", "a//x.py", "a/", "a\\x.py", &long]
        {
            assert!(check_location(ItemType::Tool, location).is_err(), "{location}");
        }
        let error = check_location(ItemType::Tool, "/p/.ai/tools/x.py").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"/p/.ai/tools/x.py\" is not the location of a tool, its path below .ai/tools: it starts with /"
        );
    }

    proptest! {
        #[test]
        fn a_location_never_leaves_its_base(path in "[a-z./\\\\~:é]{0,20}") {
            if let Some(location) = tool(&path) {
                prop_assert_eq!(check_location(ItemType::Tool, &location), Ok(()));
                prop_assert!(location.split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert!(!location.contains('\\'));
            }
        }
    }
}
