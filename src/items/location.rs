//! Where an item is: its path below the directory of its type.

use super::error::ItemError;
use super::item_type::ItemType;

/// The longest path, in bytes: what Linux calls PATH_MAX.
const MAX_PATH: usize = 4096;

/// The directory of a project that holds the directories of the types.
const PROJECT_DIRECTORY: &str = ".ai";

/// The path of an item relative to `.ai/tools/`, `.ai/directives/` or `.ai/knowledge/`, with `/` between its parts.
///
/// A relative path without `.ai` is taken as already relative to its base. If the base occurs more than once, the first
/// counts, so that nothing below a base moves unnoticed. `\` separates parts as `/` does.
///
/// # Errors
/// If the path is absolute, or goes through `.ai`, and is not below the base of `item_type`; if it has parts that are
/// empty, `.` or `..`; or if it is empty or over 4096 bytes.
pub fn extract_location_path(item_type: ItemType, file_path: &str) -> Result<String, ItemError> {
    let refused = |reason| {
        let path = file_path.chars().take(MAX_PATH).collect();
        Err(ItemError::BadLocation { item_type, path, reason })
    };
    if file_path.is_empty() || file_path.len() > MAX_PATH {
        return refused("it must have 1 to 4096 bytes");
    }
    let path = file_path.replace('\\', "/");
    let rooted = path.strip_prefix('/');
    let parts: Vec<&str> = rooted.unwrap_or(&path).split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return refused("a part of it is empty, . or ..");
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

    proptest! {
        #[test]
        fn a_location_never_leaves_its_base(path in "[a-z./\\\\~:é]{0,20}") {
            if let Some(location) = tool(&path) {
                prop_assert!(location.split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert!(!location.contains('\\'));
                prop_assert!(location.contains(".ai/") || tool(&location) == Some(location.clone()));
            }
        }
    }
}
