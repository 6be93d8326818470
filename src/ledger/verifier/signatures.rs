//! What the signatures of entries are worth.

use super::problem::ProblemKind;
use crate::ledger::record::EntryLine;
use crate::ledger::signature::Keyring;
use crate::ledger::{parse_hash, Hash};

/// What the signature of an entry is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureCheck {
    Unsigned,
    Valid,
    Invalid,
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
    Made { key: usize, signature: Hash },
}

impl SignatureClaim {
    pub(super) fn of(keyring: Option<&Keyring>, entry: &EntryLine<'_>) -> Self {
        use SignatureCheck::*;
        let (key_id, signature) = match (&entry.key_id, &entry.signature) {
            (None, None) => return SignatureClaim::Settled(Unsigned),
            (Some(key_id), Some(signature)) => (key_id, signature),
            _ => return SignatureClaim::Settled(Incomplete),
        };
        let Some(keyring) = keyring else {
            return SignatureClaim::Settled(NotChecked);
        };
        match (keyring.position(key_id), parse_hash(signature)) {
            (None, _) => SignatureClaim::Settled(UnknownKey),
            (Some(_), None) => SignatureClaim::Settled(Invalid),
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
                    true => SignatureCheck::Valid,
                    false => SignatureCheck::Invalid,
                }
            }
        }
    }
}

impl SignatureCheck {
    /// The problem that this is, if it is one.
    pub fn problem(self) -> Option<(ProblemKind, &'static str)> {
        match self {
            SignatureCheck::Unsigned | SignatureCheck::Valid | SignatureCheck::NotChecked => None,
            SignatureCheck::Invalid => Some((
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
        match signature {
            SignatureCheck::Valid => self.valid += 1,
            SignatureCheck::Invalid | SignatureCheck::Incomplete => self.invalid += 1,
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
