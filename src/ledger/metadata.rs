//! Builds the metadata of an entry that the ledger makes by itself from its members: the canonical text, and the same
//! as jsonb. Making the jsonb from the text would take twice as long as everything here.

use super::canonical_json::write_string;
use super::{ascii_text, jsonb};
use std::io::Write;
use std::ops::Range;

/// What metadata says of an entry, in the order of canonical JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    After,
    ApplicationName,
    Baseline,
    Before,
    ClientAddress,
    CurrentUser,
    Item,
    Key,
    OldKey,
    OldRowId,
    Options,
    PrecedesBaseline,
    PreviousHash,
    Reason,
    RowId,
    SessionUser,
    Shape,
    Table,
    TableId,
    TransactionId,
}

const COUNT: usize = 20;

/// The names of the members, which need no escapes.
const NAMES: [&str; COUNT] = [
    "after",
    "application_name",
    "baseline",
    "before",
    "client_address",
    "current_user",
    "item",
    "key",
    "old_key",
    "old_row_id",
    "options",
    "precedes_baseline",
    "previous_hash",
    "reason",
    "row_id",
    "session_user",
    "shape",
    "table",
    "table_id",
    "transaction_id",
];

/// The order of keys in a jsonb: by length, then by bytes.
const IN_JSONB: [Member; COUNT] = [
    Member::Key,
    Member::Item,
    Member::After,
    Member::Shape,
    Member::Table,
    Member::Before,
    Member::Reason,
    Member::RowId,
    Member::OldKey,
    Member::Options,
    Member::Baseline,
    Member::TableId,
    Member::OldRowId,
    Member::CurrentUser,
    Member::SessionUser,
    Member::PreviousHash,
    Member::ClientAddress,
    Member::TransactionId,
    Member::ApplicationName,
    Member::PrecedesBaseline,
];

/// The place of each member in [`IN_JSONB`].
const RANKS: [u8; COUNT] = {
    let (mut ranks, mut rank) = ([0; COUNT], 0);
    while rank < COUNT {
        ranks[IN_JSONB[rank] as usize] = rank as u8;
        rank += 1;
    }
    ranks
};

/// Metadata being put together. Members can come in any order.
#[derive(Debug)]
pub struct Members {
    /// Their values, canonical JSON one after another.
    values: Vec<u8>,
    /// Where in `values` the value of each member stands that is set.
    places: [Range<usize>; COUNT],
    /// The set members, as bits: by member, and by rank in a jsonb.
    in_text: u32,
    in_jsonb: u32,
}

impl Default for Members {
    fn default() -> Self {
        Members { values: Vec::with_capacity(512), places: [const { 0..0 }; COUNT], in_text: 0, in_jsonb: 0 }
    }
}

impl Members {
    /// A member that is canonical JSON already.
    pub fn set_json(&mut self, member: Member, json: &str) {
        self.set(member, |values| values.extend_from_slice(json.as_bytes()));
    }

    pub fn set_text(&mut self, member: Member, text: &str) {
        self.set(member, |values| write_string(values, text));
    }

    pub fn set_number(&mut self, member: Member, number: u64) {
        // Infallible: a vector takes any text.
        self.set(member, |values| drop(write!(values, "{number}")));
    }

    /// Hands the end of the values to `write`, which appends canonical JSON.
    fn set(&mut self, member: Member, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.values.len();
        write(&mut self.values);
        self.places[member as usize] = start..self.values.len();
        self.in_text |= 1 << member as u32;
        self.in_jsonb |= 1 << RANKS[member as usize];
    }

    pub fn finish(self) -> Metadata {
        let values = ascii_text(self.values);
        let mut text = String::with_capacity(values.len() + 24 * self.in_text.count_ones() as usize);
        text.push('{');
        for member in ones(self.in_text) {
            text.push_str(if text.len() > 1 { ", \"" } else { "\"" });
            text.push_str(NAMES[member]);
            text.push_str("\": ");
            text.push_str(&values[self.places[member].clone()]);
        }
        text.push('}');
        let (mut members, mut count) = ([const { ("", 0..0) }; COUNT], 0);
        for member in ones(self.in_jsonb).map(|rank| IN_JSONB[rank] as usize) {
            members[count] = (NAMES[member], self.places[member].clone());
            count += 1;
        }
        Metadata { jsonb: jsonb::encode_object(&values, &members[..count]), text }
    }
}

/// The positions of the bits that are set, from the lowest.
fn ones(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (lowest < COUNT).then_some(lowest)
    })
}

/// The metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Canonical JSON of an object.
    pub text: String,
    /// The same as a jsonb with its varlena header; `None` where it is to be made from the text.
    pub jsonb: Option<Vec<u8>>,
}

impl Metadata {
    /// How many bytes it takes in the forms that it has.
    pub fn length(&self) -> usize {
        self.text.len() + self.jsonb.as_ref().map_or(0, Vec::len)
    }
}

impl From<String> for Metadata {
    fn from(text: String) -> Self {
        Metadata { text, jsonb: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::canonical_json::canonical;
    use proptest::prelude::*;

    fn made(members: &[(usize, Value)]) -> Metadata {
        let mut made = Members::default();
        for (member, value) in members {
            match value {
                Value::Text(text) => made.set_text(IN_JSONB[*member], text),
                Value::Json(json) => made.set_json(IN_JSONB[*member], json),
            }
        }
        made.finish()
    }

    #[derive(Debug, Clone)]
    enum Value {
        Text(String),
        Json(&'static str),
    }

    impl Value {
        fn json(&self) -> String {
            match self {
                Value::Text(text) => serde_json::to_string(text).unwrap(),
                Value::Json(json) => (*json).to_owned(),
            }
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let json = prop::sample::select(vec![
            "true",
            "null",
            "-70000.25",
            "12",
            "{}",
            "[]",
            r#"{"id": "\u00e9\\", "list": [1, {"a": 2}]}"#,
            r#"[0.5, "x", [[]]]"#,
            // Those that are left to Postgres.
            "1e+100",
            r#"{"n": 1e-07}"#,
            r#""\ud800""#,
        ]);
        prop_oneof![
            any::<String>().prop_map(Value::Text),
            "[a-z0-9-]{0,40}".prop_map(Value::Text),
            json.prop_map(Value::Json)
        ]
    }

    proptest! {
        #[test]
        fn metadata_is_the_canonical_text_and_the_jsonb_of_its_members(
            members in prop::collection::vec((0..COUNT, value()), 0..COUNT)
        ) {
            let pairs = members.iter().map(|(at, value)| format!("\"{}\": {}", NAMES[IN_JSONB[*at] as usize], value.json()));
            let text = canonical(&format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))).unwrap();
            let metadata = made(&members);
            prop_assert_eq!(&metadata.jsonb, &jsonb::encode(&text));
            prop_assert_eq!(metadata.text, text);
        }
    }

    #[test]
    fn members_stand_in_the_order_of_the_text_and_of_the_jsonb() {
        assert!(NAMES.is_sorted());
        let names = IN_JSONB.map(|member| NAMES[member as usize]);
        assert!(names.is_sorted_by_key(|name| (name.len(), *name)));
        let mut all = names;
        all.sort_unstable();
        assert_eq!(all, NAMES);
        assert_eq!(NAMES[Member::TransactionId as usize], "transaction_id");
        assert_eq!(NAMES[Member::Key as usize], "key");
    }
}
