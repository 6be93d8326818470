//! Why an item is signed, which the entry says.

use crate::items::registration::Event;

/// What an item is signed for.
pub enum Signing {
    First,
    Again,
    Move { from: String },
}

impl Signing {
    /// What the entry says of it.
    pub fn event(&self) -> Event {
        match self {
            Signing::First | Signing::Again => Event::Signed,
            Signing::Move { from } => Event::Moved { from: from.clone() },
        }
    }
}
