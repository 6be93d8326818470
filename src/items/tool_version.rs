//! The version that a tool states of itself.

use super::comment_style::CommentStyle;

/// How many lines from the top are looked at.
const LINES: usize = 100;

/// The version that the first 100 lines of a tool state: the first line of one of the forms
///
/// - `__version__ = "1.2.3"`, in code or in a comment;
/// - `version: 1.2.3`, in a comment, or as a key of YAML.
///
/// `=` and `:` may stand for each other in the first form; quotes do not matter. What does not start with a digit is no
/// version. Whether it is a semantic version is not checked here.
///
/// `text` is the tool without signature lines: they must not move a version out of the lines that are looked at, or
/// from behind a byte order mark.
pub fn stated_version(text: &str, style: CommentStyle) -> Option<&str> {
    text.strip_prefix('\u{feff}').unwrap_or(text).lines().take(LINES).find_map(|line| version_in(line, style))
}

fn version_in(line: &str, style: CommentStyle) -> Option<&str> {
    let line = line.strip_prefix(style.delimiters().0).map_or(line, str::trim_start);
    let value = match line.strip_prefix("__version__") {
        Some(rest) => rest.trim_start().strip_prefix(['=', ':'])?,
        None => line.strip_prefix("version")?.trim_start().strip_prefix(':')?,
    };
    let value = value.trim_start().trim_start_matches(['"', '\'']);
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '#');
    let version = value.split(ends).next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_code_and_comments() {
        for (text, style) in [
            ("#!/bin/sh\n__version__ = \"1.2.3\"\n", CommentStyle::Hash),
            ("__version__='1.2.3'  # now\r\n", CommentStyle::Hash),
            ("# version: 1.2.3\n", CommentStyle::Hash),
            ("#version: 1.2.3", CommentStyle::Hash),
            ("# __version__: 1.2.3", CommentStyle::Hash),
            ("version: \"1.2.3\"\nname: x\n", CommentStyle::Hash),
            ("'use strict';\n// version: 1.2.3\n", CommentStyle::Slashes),
            ("/* version: 1.2.3 */", CommentStyle::Block),
            ("<!-- version: 1.2.3 -->", CommentStyle::Markup),
            ("\u{feff}version: 1.2.3\n", CommentStyle::Hash),
            ("version: str\n# version: 1.2.3\n# version: 4.5.6\n", CommentStyle::Hash),
        ] {
            assert_eq!(stated_version(text, style), Some("1.2.3"), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_version_is_not_taken() {
        for text in [
            "",
            "version = 3",
            "  version: 1.2.3",
            "// version: 1.2.3",
            "conversion: 1.2.3",
            "# versions: 1.2.3",
            "__version__ = get()",
            "version:",
            &format!("{}# version: 1.2.3", "\n".repeat(100)),
        ] {
            assert_eq!(stated_version(text, CommentStyle::Hash), None, "{text}");
        }
    }
}
