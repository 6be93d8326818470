//! Names and types as SQL has them, the same in every session.

// Of Postgres, and not among pgrx's declarations.
extern "C" {
    static mut quote_all_identifiers: bool;
}

/// Quotes only what must be quoted, until dropped. Any session may set quote_all_identifiers for itself; what is recorded, and hashed,
/// must not depend on it.
pub struct PlainQuotes {
    quotes_all: bool,
}

impl PlainQuotes {
    pub fn set() -> PlainQuotes {
        // SAFETY: a plain global of this process.
        unsafe {
            let saved = PlainQuotes { quotes_all: quote_all_identifiers };
            quote_all_identifiers = false;
            saved
        }
    }
}

impl Drop for PlainQuotes {
    fn drop(&mut self) {
        // SAFETY: as in set(). An error of a look-up unwinds through here.
        unsafe { quote_all_identifiers = self.quotes_all };
    }
}
