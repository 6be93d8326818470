//! The types of item, and how large an item can be.

use std::fmt;

/// The longest content, in bytes. A Postgres text can hold it together with its signature line.
pub const MAX_CONTENT: usize = 1_000_000_000;

/// The longest metadata, in bytes of JSON text: parsing takes up to 16 times as much memory.
pub const MAX_METADATA: usize = 16 << 20;

/// The longest id, in characters.
pub const MAX_ID: usize = 255;

/// The three types of item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemType {
    /// A program.
    Tool,
    /// XML in Markdown.
    Directive,
    /// Markdown with front matter.
    Knowledge,
}

impl ItemType {
    /// All of them.
    pub const ALL: [ItemType; 3] = [ItemType::Tool, ItemType::Directive, ItemType::Knowledge];

    /// `tool`, `directive` or `knowledge`.
    pub fn as_str(self) -> &'static str {
        match self {
            ItemType::Tool => "tool",
            ItemType::Directive => "directive",
            ItemType::Knowledge => "knowledge",
        }
    }

    /// The name at the start of a sentence: `Tool`, `Directive` or `Knowledge`.
    pub fn title(self) -> &'static str {
        match self {
            ItemType::Tool => "Tool",
            ItemType::Directive => "Directive",
            ItemType::Knowledge => "Knowledge",
        }
    }

    /// The directory that holds the items of this type: `.ai/tools`, `.ai/directives` or `.ai/knowledge`.
    pub fn base(self) -> &'static str {
        match self {
            ItemType::Tool => ".ai/tools",
            ItemType::Directive => ".ai/directives",
            ItemType::Knowledge => ".ai/knowledge",
        }
    }
}

impl fmt::Display for ItemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
