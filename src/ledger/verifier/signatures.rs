//! What the signatures of entries are worth.

use super::problem::ProblemKind;
use crate::ledger::record::EntryLine;
use crate::ledger::signature::Keyring;
use crate::ledger::{parse_hash, Hash};
use std::fmt;

/// What the signature of an entry is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureCheck {
    Unsigned,
    /// `key` is the place of the key in the keyring.
    Valid {
        key: u32,
    },
    Invalid {
        key: u32,
    },
    /// The keyring does not have the key.
    UnknownKey,
    /// There is no keyring.
    NotChecked,
    /// A signature without a key_id, or the other way round.
    Incomplete,
}

/// Checks an entry's signature with the keys at hand.
pub fn check_signature(keyring: Option<&Keyring>, entry: &EntryLine<'_>) -> SignatureCheck {
    SignatureClaim::of(keyring, entry).check(keyring, entry.data_hash)
}

/// What an entry claims of its signature, before that is computed.
#[derive(Debug, Clone, Copy)]
pub(super) enum SignatureClaim {
    /// Nothing needs to be computed.
    Settled(SignatureCheck),
    /// Made with this key of the keyring.
    Made { key: u32, signature: Hash },
}

impl SignatureClaim {
    pub(super) fn of(keyring: Option<&Keyring>, entry: &EntryLine<'_>) -> Self {
        use SignatureCheck::*;
        let (key_id, signature) = match (&entry.key_id, &entry.signature) {
            (None, None) => return SignatureClaim::Settled(Unsigned),
            (Some(key_id), Some(signature)) => (key_id, signature),
            _ => return SignatureClaim::Settled(Incomplete),
        };
        match keyring {
            Some(keyring) => SignatureClaim::made(keyring, key_id, signature),
            None => SignatureClaim::Settled(NotChecked),
        }
    }

    fn made(keyring: &Keyring, key_id: &str, signature: &str) -> Self {
        match (keyring.position(key_id), parse_hash(signature)) {
            (None, _) => SignatureClaim::Settled(SignatureCheck::UnknownKey),
            (Some(key), None) => SignatureClaim::Settled(SignatureCheck::Invalid { key }),
            (Some(key), Some(signature)) => SignatureClaim::Made { key, signature },
        }
    }

    /// `keyring` is the same again.
    pub(super) fn check(self, keyring: Option<&Keyring>, data_hash: &str) -> SignatureCheck {
        match (self, keyring) {
            (SignatureClaim::Settled(check), _) => check,
            (SignatureClaim::Made { .. }, None) => SignatureCheck::NotChecked,
            (SignatureClaim::Made { key, signature }, Some(keyring)) => {
                match keyring.has_made(key, data_hash, &signature) {
                    true => SignatureCheck::Valid { key },
                    false => SignatureCheck::Invalid { key },
                }
            }
        }
    }
}

impl SignatureCheck {
    /// Checks a signature that is said to be made with the key of this name.
    pub fn of(keyring: &Keyring, key_id: &str, data_hash: &str, signature: &str) -> Self {
        SignatureClaim::made(keyring, key_id, signature).check(Some(keyring), data_hash)
    }

    /// The problem that this is, if it is one.
    pub fn problem(self) -> Option<(ProblemKind, &'static str)> {
        match self {
            SignatureCheck::Unsigned | SignatureCheck::Valid { .. } | SignatureCheck::NotChecked => None,
            SignatureCheck::Invalid { .. } => Some((
                ProblemKind::SignatureInvalid,
                "the signature is not the one that its key makes of this data_hash",
            )),
            SignatureCheck::UnknownKey => {
                Some((ProblemKind::UnknownKey, "signed with a key that is not among the given secrets: see its key_id"))
            }
            SignatureCheck::Incomplete => {
                Some((ProblemKind::SignatureIncomplete, "signature and key_id must both be set or both be null"))
            }
        }
    }
}

/// How many entries of a file have signatures of which worth. None of them is counted if there is no keyring.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SignatureCounts {
    pub valid: u64,
    /// Not those that the named key makes, or without a key_id.
    pub invalid: u64,
    /// With a key that the keyring lacks.
    pub unknown_key: u64,
    pub unsigned: u64,
    /// The keys that the keyring lacks: the first 16 of them.
    pub missing_keys: Vec<MissingKey>,
    /// Those with a key that the keyring has.
    pub by_key: KeyCounts,
}

/// A key that signed entries and is not in the keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingKey {
    pub key_id: Box<str>,
    pub entries: u64,
    /// The first line with such an entry.
    pub first_line: u64,
}

/// Whoever writes the file may invent keys.
const MAX_NAMED: usize = 16;

impl SignatureCounts {
    pub(super) fn note(&mut self, signature: SignatureCheck) {
        self.by_key.note(signature);
        match signature {
            SignatureCheck::Valid { .. } => self.valid += 1,
            SignatureCheck::Invalid { .. } | SignatureCheck::Incomplete => self.invalid += 1,
            SignatureCheck::UnknownKey => self.unknown_key += 1,
            SignatureCheck::Unsigned => self.unsigned += 1,
            SignatureCheck::NotChecked => {}
        }
    }

    pub(super) fn note_missing(&mut self, key_id: Box<str>, line: u64) {
        if let Some(known) = self.missing_keys.iter_mut().find(|known| known.key_id == key_id) {
            known.entries += 1;
        } else if self.missing_keys.len() < MAX_NAMED {
            self.missing_keys.push(MissingKey { key_id, entries: 1, first_line: line });
        }
    }

    /// `valid, invalid, unknown_key, unsigned`, and `missing_keys` with the key_ids.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "valid": self.valid,
            "invalid": self.invalid,
            "unknown_key": self.unknown_key,
            "unsigned": self.unsigned,
            "missing_keys": self.missing_keys.iter().map(|missing| &missing.key_id).collect::<Vec<_>>(),
        })
    }
}

/// How many signatures each key of a keyring has made, of those that are said to be its.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct KeyCounts(Vec<KeyCount>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct KeyCount {
    valid: u64,
    invalid: u64,
}

impl KeyCounts {
    /// Counts a signature, if its key is in the keyring.
    pub fn note(&mut self, signature: SignatureCheck) {
        match signature {
            SignatureCheck::Valid { key } => self.of(key as usize).valid += 1,
            SignatureCheck::Invalid { key } => self.of(key as usize).invalid += 1,
            _ => {}
        }
    }

    /// Adds what was counted elsewhere with the same keyring.
    pub fn add(&mut self, other: &KeyCounts) {
        for (key, more) in other.0.iter().enumerate() {
            let count = self.of(key);
            count.valid += more.valid;
            count.invalid += more.invalid;
        }
    }

    fn of(&mut self, key: usize) -> &mut KeyCount {
        if self.0.len() <= key {
            self.0.resize(key + 1, KeyCount::default());
        }
        &mut self.0[key]
    }

    /// The keys that have made none or nearly none of the signatures that are said to be theirs. An attacker seldom
    /// changes so many: nearly always the keyring has another secret under this name. `keyring` is the one that the
    /// signatures were checked with.
    pub fn wrong_keys(&self, keyring: &Keyring) -> Vec<WrongKey> {
        let names = keyring.iter().map(|(key_id, _)| key_id);
        let wrong = self.0.iter().zip(names).filter(|(count, _)| count.is_wrong());
        wrong
            .map(|(KeyCount { valid, invalid }, key_id)| WrongKey {
                key_id: key_id.to_owned(),
                invalid: *invalid,
                checked: valid + invalid,
            })
            .collect()
    }
}

impl KeyCount {
    /// One in twenty may be valid: those made before, or since, the key_id was given another secret.
    fn is_wrong(&self) -> bool {
        self.invalid > 0 && self.valid <= self.invalid / 19
    }
}

/// A key whose secret seems to be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongKey {
    pub key_id: String,
    pub invalid: u64,
    /// The invalid ones, and the few valid ones.
    pub checked: u64,
}

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WrongKey { key_id, invalid, checked } = self;
        write!(
            f,
            "{invalid} of {checked} signatures with key_id \"{key_id}\" are not those that its secret makes: \
             perhaps that is another secret, or begins or ends with a space or line end that does not belong to it"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sha256_hex;

    fn counts(numbers: &[(u64, u64)]) -> KeyCounts {
        KeyCounts(numbers.iter().map(|(valid, invalid)| KeyCount { valid: *valid, invalid: *invalid }).collect())
    }

    #[test]
    fn a_key_that_has_made_nearly_none_of_its_signatures_is_wrong() {
        let ring = Keyring::parse("a:1\nb:2\nc:3\nd:4").unwrap();
        let wrong = |numbers: &[(u64, u64)]| {
            let found = counts(numbers).wrong_keys(&ring);
            found.into_iter().map(|key| (key.key_id, key.invalid, key.checked)).collect::<Vec<_>>()
        };
        let named = |key_id: &str, invalid, checked| (key_id.to_owned(), invalid, checked);
        assert_eq!(wrong(&[]), []);
        assert_eq!(wrong(&[(0, 0), (5, 0), (1, 1), (1, 18)]), []);
        let expected = [named("b", 1, 1), named("c", 19, 20), named("d", 1000, 1007)];
        assert_eq!(wrong(&[(9, 0), (0, 1), (1, 19), (7, 1000)]), expected);
    }

    #[test]
    fn signatures_are_counted_by_the_key_that_they_name() {
        let (ring, hash) = (Keyring::parse("a:1\nb:2").unwrap(), sha256_hex(b"data"));
        let other = Keyring::parse("b:other\nc:3").unwrap();
        let mut counted = KeyCounts::default();
        for (key_id, signature) in
            [ring.sign(&hash), other.sign(&hash), ("a", "no hash".to_owned()), ("c", hash.clone())]
        {
            counted.note(SignatureCheck::of(&ring, key_id, &hash, &signature));
        }
        for other in [SignatureCheck::Unsigned, SignatureCheck::Incomplete, SignatureCheck::NotChecked] {
            counted.note(other);
        }
        assert_eq!(counted, counts(&[(1, 1), (0, 1)]));
        // Another copy of the same entries shows that a secret is right.
        counted.add(&counts(&[(0, 0), (1, 0)]));
        assert_eq!(counted, counts(&[(1, 1), (1, 1)]));
        assert_eq!(counted.wrong_keys(&ring), []);
    }
}
