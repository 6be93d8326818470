//! What a verification says of a row.

/// What can be wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowProblemKind {
    /// It is not what was recorded.
    Modified,
    /// It was recorded, and is not there.
    Missing,
    /// It is there, and was never recorded.
    Unrecorded,
    /// It was deleted, and is there again.
    Resurrected,
    /// The entry's signature is not good.
    Signature,
    /// The table has changed since in a way that leaves nothing to compare.
    Unverifiable,
}

impl RowProblemKind {
    pub fn as_str(self) -> &'static str {
        match self {
            RowProblemKind::Modified => "modified",
            RowProblemKind::Missing => "missing",
            RowProblemKind::Unrecorded => "unrecorded",
            RowProblemKind::Resurrected => "resurrected",
            RowProblemKind::Signature => "signature",
            RowProblemKind::Unverifiable => "unverifiable",
        }
    }
}

/// A problem, and what there is to say about it.
pub type Finding = (RowProblemKind, String);

/// As `columns "a", "b"`.
pub fn quoted_columns(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{} {}", if names.len() == 1 { "column" } else { "columns" }, quoted.join(", "))
}
