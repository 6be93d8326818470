//! Reads what an item's own text says of it, for callers that were not told its id and version.

use super::directive;
use super::error::{lines_removed, ItemError};
use super::front_matter;
use super::item::{check_content_length, Item};
use super::item_type::ItemType;
use super::location::Place;
use super::signature_line::LineFormat;
use super::tool_version::stated_version;

/// What an item says of itself. All that is checked is that it can be read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// A directive's `name`, knowledge's `zettel_id`. A tool does not say.
    pub id: Option<String>,
    /// See [`stated_version`] for tools; else the attribute or key `version`.
    pub version: Option<String>,
    /// Of knowledge.
    pub title: Option<String>,
    /// Of knowledge.
    pub category: Option<String>,
    /// Of knowledge.
    pub entry_type: Option<String>,
    /// Of knowledge.
    pub tags: Vec<String>,
}

/// Reads what `content`, with or without a signature line, says of itself. `file_path` and `language` are as in
/// [`Item`].
///
/// # Errors
/// If the content is too long, is no directive, or has front matter that does not parse; or if a tool's language is not
/// known or has no comments.
pub fn read(
    item_type: ItemType,
    content: &str,
    file_path: Option<&str>,
    language: Option<&str>,
) -> Result<Attributes, ItemError> {
    check_content_length(content.len() as u64)?;
    match item_type {
        ItemType::Tool => {
            let file_path = file_path.map(Place::Path);
            let item = Item { item_type, id: "", version: "", content, file_path, metadata: None, language };
            let (format, unsigned) = LineFormat::of_unsigned(&item)?;
            let version = stated_version(&unsigned, format.style()).map(str::to_owned);
            Ok(Attributes { version, ..Attributes::default() })
        }
        ItemType::Directive => {
            let found = directive::read(content)?;
            Ok(Attributes { id: found.name, version: found.version, ..Attributes::default() })
        }
        ItemType::Knowledge => {
            let unsigned = LineFormat::MARKDOWN.remove(content);
            let read = front_matter::read(&unsigned);
            let (found, _) = read.map_err(|error| error.below(lines_removed(content, &unsigned)))?;
            Ok(Attributes {
                id: found.zettel_id,
                version: found.version,
                title: found.title,
                category: found.category,
                entry_type: found.entry_type,
                tags: found.tags,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "<!-- kiwi-mcp:validated:x -->\n";

    #[test]
    fn an_item_says_what_it_is() {
        let tool = read(ItemType::Tool, "// version: 1.2.0\n", Some("x.js"), None).unwrap();
        assert_eq!((tool.id, tool.version.as_deref()), (None, Some("1.2.0")));
        let content = format!("{LINE}<directive name=\"test\" version=\"1.3.0\"></directive>");
        let directive = read(ItemType::Directive, &content, None, None).unwrap();
        assert_eq!((directive.id.as_deref(), directive.version.as_deref()), (Some("test"), Some("1.3.0")));
        let content =
            format!("{LINE}---\nzettel_id: z\ntitle: T\ncategory: c\nentry_type: e\ntags: [a]\nversion: 1.4.0\n---\n");
        let knowledge = read(ItemType::Knowledge, &content, None, None).unwrap();
        let expected = Attributes {
            id: Some("z".to_owned()),
            version: Some("1.4.0".to_owned()),
            title: Some("T".to_owned()),
            category: Some("c".to_owned()),
            entry_type: Some("e".to_owned()),
            tags: vec!["a".to_owned()],
        };
        assert_eq!(knowledge, expected);
    }

    #[test]
    fn the_lines_of_errors_are_those_of_the_file() {
        let content = format!("{LINE}{LINE}---\ntitle: [\n---\n");
        let error = read(ItemType::Knowledge, &content, None, None).unwrap_err().to_string();
        assert!(error.starts_with("line 5: the front matter is not YAML"), "{error}");
        let content = format!("{LINE}<directive></directive>\n<directive></directive>");
        let error = read(ItemType::Directive, &content, None, None).unwrap_err().to_string();
        assert!(error.starts_with("line 3: a second <directive>, after the one on line 2"), "{error}");
    }
}
