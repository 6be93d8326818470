//! Names and types as SQL has them, the same in every session.

// A variable of Postgres that pgrx does not declare.
extern "C" {
    static mut quote_all_identifiers: bool;
}

/// Until dropped, quotes only names that need quotes. Any session may set quote_all_identifiers for itself, but what is
/// recorded and hashed must not depend on it.
pub struct PlainQuotes {
    quotes_all: bool,
}

impl PlainQuotes {
    pub fn set() -> PlainQuotes {
        // SAFETY: a global of this process, which only its one thread uses.
        unsafe {
            let saved = PlainQuotes { quotes_all: quote_all_identifiers };
            quote_all_identifiers = false;
            saved
        }
    }
}

impl Drop for PlainQuotes {
    fn drop(&mut self) {
        // SAFETY: restores a global of this process, also when an error of a look-up unwinds through here.
        unsafe { quote_all_identifiers = self.quotes_all };
    }
}
