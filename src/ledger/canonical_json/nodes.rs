//! What the parser makes of a text, and the writer prints.

/// One value or key. Offsets are bytes of the text; `end` of a container is the index of the node after its last
/// member.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    /// Text that is canonical as it stands: a literal, an integer, or a string with nothing to escape (quotes
    /// included).
    Verbatim {
        start: u32,
        end: u32,
    },
    /// A string that may have to be written differently, quotes included.
    Escaped {
        start: u32,
        end: u32,
    },
    Float(f64),
    Array {
        end: u32,
    },
    Object {
        end: u32,
    },
}

/// The nodes of one value. In an object, keys and values alternate.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) nodes: Vec<Node>,
    /// Indexes of the containers that are still open.
    pub(super) open: Vec<u32>,
}
