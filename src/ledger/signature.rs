//! Signatures of data hashes, and the ring of secrets that make and check them.
//!
//! A signature is the lower-case hex HMAC-SHA256 (RFC 2104), keyed with the secret's bytes, over the 64 characters of a
//! data hash.

use super::Hash;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The longest key_id, in characters: the width of its column.
pub const MAX_KEY_ID: usize = 64;

/// Signs `data_hash`. Gives 64 lower-case hex digits.
pub fn sign(secret: &[u8], data_hash: &str) -> String {
    super::to_hex(&mac(secret, data_hash).finalize().into_bytes())
}

/// Whether `signature` is the one that `secret` makes of `data_hash`. The time it takes does not depend on how much of
/// the signature is right.
pub fn verify(secret: &[u8], data_hash: &str, signature: &str) -> bool {
    super::parse_hash(signature).is_some_and(|bytes| mac(secret, data_hash).verify_slice(&bytes).is_ok())
}

fn mac(secret: &[u8], data_hash: &str) -> Hmac<Sha256> {
    keyed(secret).chain_update(data_hash)
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}

/// Larger than any sensible list of keys. It keeps a wrong path (a log, a device) from being read whole. A reader reads
/// one byte more, so that it notices a longer file instead of cutting it off.
pub const MAX_KEYRING: usize = 1 << 20;

/// Some editors put it before a text in UTF-8. It would be the beginning of the first key_id.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A shorter secret can be found by trying.
pub const SHORTEST_SECRET: usize = 16;

/// The secrets of a ledger, in order. The first signs, all verify.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<Key>,
    /// Where to look for a key that is not among these.
    added: Option<Arc<Added>>,
}

/// Keys that were added to a ring since it was read.
struct Added {
    read: Box<dyn Fn() -> Option<Keyring> + Send + Sync>,
    keys: OnceLock<Vec<Key>>,
}

#[derive(Clone)]
struct Key {
    key_id: String,
    secret: Vec<u8>,
    /// The HMAC with the secret already absorbed, which saves half the work for each signature.
    keyed: Hmac<Sha256>,
}

impl Key {
    fn new(key_id: &str, secret: &[u8]) -> Self {
        Key { key_id: key_id.to_owned(), secret: secret.to_vec(), keyed: keyed(secret) }
    }
}

impl Keyring {
    /// A ring of one secret.
    ///
    /// # Errors
    /// If the key_id is empty or over [`MAX_KEY_ID`] characters, or the secret is empty, contains a newline or ends
    /// with a carriage return.
    pub fn single(key_id: &str, secret: &[u8]) -> Result<Self, KeyringError> {
        let key = checked_key(key_id, secret).map_err(|reason| KeyringError { line: None, reason })?;
        Ok(Keyring { keys: vec![key], added: None })
    }

    /// Reads lines `key_id:secret`, which end with LF or CR LF. The secret is every byte after the first colon up to
    /// the end of the line, spaces included. Blank lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// If a line has no colon, an empty or over-long or repeated key_id, or a secret that is empty or ends with a
    /// carriage return, if there is no key at all, if the text begins with a byte order mark, or if it is longer than
    /// [`MAX_KEYRING`]. The error names the line and never shows the secret.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, KeyringError> {
        if text.as_ref().len() > MAX_KEYRING {
            return Err(KeyringError { line: None, reason: "it is larger than 1 MiB" });
        }
        if text.as_ref().starts_with(BYTE_ORDER_MARK) {
            let reason = "it begins with a byte order mark: save it as UTF-8 without one";
            return Err(KeyringError { line: None, reason });
        }
        let mut ring = Keyring { keys: Vec::new(), added: None };
        for (index, line) in lines(text.as_ref()).enumerate() {
            if line.trim_ascii().is_empty() || line.starts_with(b"#") {
                continue;
            }
            ring.add_line(line).map_err(|reason| KeyringError { line: Some(index + 1), reason })?;
        }
        if ring.keys.is_empty() {
            let reason = "it has no line of the form key_id:secret";
            return Err(KeyringError { line: None, reason });
        }
        Ok(ring)
    }

    fn add_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let colon = line.iter().position(|byte| *byte == b':');
        let (key_id, rest) = line.split_at(colon.ok_or("there is no colon: write it as key_id:secret")?);
        let key_id = std::str::from_utf8(key_id).map_err(|_| "the key_id is not UTF-8")?;
        let secret = &rest[1..];
        if self.get(key_id).is_some() {
            return Err("the key_id is already used by an earlier line");
        }
        self.keys.push(checked_key(key_id, secret)?);
        Ok(())
    }

    /// The same ring, for checks that take long. It calls `read` once, from whichever thread first asks for a key that
    /// it lacks, and has from then on what that gives, behind its own keys. Clones share these.
    pub fn rereading(self, read: impl Fn() -> Option<Keyring> + Send + Sync + 'static) -> Keyring {
        let added = Added { read: Box::new(read), keys: OnceLock::new() };
        Keyring { keys: self.keys, added: Some(Arc::new(added)) }
    }

    /// Those that were added, as far as they have been read.
    fn added(&self) -> &[Key] {
        self.added.as_ref().and_then(|added| added.keys.get()).map_or(&[], |keys| &keys[..])
    }

    fn read_added(&self) {
        if let Some(added) = &self.added {
            added.keys.get_or_init(|| {
                let mut keys = (added.read)().map_or_else(Vec::new, |ring| ring.keys);
                keys.retain(|key| self.keys.iter().all(|own| own.key_id != key.key_id));
                keys
            });
        }
    }

    fn known(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().chain(self.added())
    }

    /// The key that signs: its key_id and secret.
    pub fn signing_key(&self) -> (&str, &[u8]) {
        let key = &self.keys[0];
        (&key.key_id, &key.secret)
    }

    /// The secret of `key_id`.
    pub fn get(&self, key_id: &str) -> Option<&[u8]> {
        self.key(key_id).map(|key| &key.secret[..])
    }

    /// All keys in order: key_id and secret.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.known().map(|key| (&key.key_id[..], &key.secret[..]))
    }

    /// Whether both have the same secrets under the same names, in the same order. The time that this takes says
    /// something about the secrets, so it is only for two keyrings of the server itself.
    pub fn is_same(&self, other: &Keyring) -> bool {
        self.iter().eq(other.iter())
    }

    /// The names of the keys whose secret is too short.
    pub fn short(&self) -> impl Iterator<Item = &str> {
        self.iter().filter(|(_, secret)| secret.len() < SHORTEST_SECRET).map(|(key_id, _)| key_id)
    }

    /// Signs with the first key. Gives its key_id and the signature.
    pub fn sign(&self, data_hash: &str) -> (&str, String) {
        let key = &self.keys[0];
        let mac = key.keyed.clone().chain_update(data_hash);
        (&key.key_id, super::to_hex(&mac.finalize().into_bytes()))
    }

    /// Whether the key of this name made the signature; `None` if the ring does not have the key.
    pub fn verify(&self, key_id: &str, data_hash: &str, signature: &str) -> Option<bool> {
        let position = self.position(key_id)?;
        Some(super::parse_hash(signature).is_some_and(|signature| self.has_made(position, data_hash, &signature)))
    }

    /// The place of a key in the ring.
    pub(super) fn position(&self, key_id: &str) -> Option<u32> {
        let position = || self.known().position(|key| key.key_id == key_id);
        let found = position().or_else(|| {
            self.read_added();
            position()
        });
        // A keyring has far fewer keys than bytes.
        found.map(|position| position as u32)
    }

    /// Whether the key in this place made the signature.
    pub(super) fn has_made(&self, position: u32, data_hash: &str, signature: &Hash) -> bool {
        let made = |key: &Key| key.keyed.clone().chain_update(data_hash).verify_slice(signature).is_ok();
        self.known().nth(position as usize).is_some_and(made)
    }

    fn key(&self, key_id: &str) -> Option<&Key> {
        self.known().nth(self.position(key_id)? as usize)
    }
}

impl fmt::Debug for Keyring {
    /// Names the keys and shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key_ids = self.known().map(|key| &key.key_id);
        f.debug_list().entries(key_ids).finish()
    }
}

/// The lines of a text, without the LF or CR LF that each ends with, and what stands behind the last of these.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    })
}

fn checked_key(key_id: &str, secret: &[u8]) -> Result<Key, &'static str> {
    if key_id.is_empty() {
        return Err("the key_id is empty");
    }
    if key_id.chars().count() > MAX_KEY_ID {
        return Err("the key_id is longer than 64 characters");
    }
    if secret.is_empty() {
        return Err("the secret is empty");
    }
    // Nobody sees it, and another program that reads the same file would take it for a part of the line's end.
    if secret.ends_with(b"\r") {
        return Err("the secret ends with a carriage return");
    }
    // No line of a secret file can hold it, so the offline verifier could never check what it signed. A variable that
    // was filled from a file often ends with one.
    if secret.contains(&b'\n') {
        return Err("the secret contains a newline");
    }
    Ok(Key::new(key_id, secret))
}

/// Why a text is not a list of keys. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringError {
    /// 1-based; `None` if it is not about one line.
    pub line: Option<usize>,
    /// What is wrong there.
    pub reason: &'static str,
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "in line {line} {}", self.reason),
            None => f.write_str(self.reason),
        }
    }
}

impl std::error::Error for KeyringError {}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "cb8ae809def24febd91f2e04ec52a326e7f4c4b428e49ce0956482373d70edfa";

    #[test]
    fn the_vectors_are_signed_and_verified() {
        let vectors = crate::ledger::test_support::vectors("signature.json");
        for vector in vectors.as_array().unwrap() {
            let field = |name: &str| vector[name].as_str().unwrap();
            let secret = field("secret").as_bytes();
            assert_eq!(sign(secret, field("data_hash")), field("signature"));
            assert!(verify(secret, field("data_hash"), field("signature")));
            assert!(!verify(b"other", field("data_hash"), field("signature")));
            let ring = Keyring::single("k", secret).unwrap();
            assert_eq!(ring.sign(field("data_hash")), ("k", sign(secret, field("data_hash"))));
            let verified = ring.verify("k", field("data_hash"), field("signature"));
            assert_eq!(verified, Some(true));
        }
    }

    #[test]
    fn rings_are_the_same_if_names_and_secrets_are() {
        let ring = |text| Keyring::parse(text).unwrap();
        assert!(ring("a:1\nb:2").is_same(&ring("# said otherwise\na:1\nb:2\n")));
        for other in ["a:1", "a:1\nb:3", "a:1\nc:2", "b:2\na:1", "a:1\nb:2\nc:3"] {
            assert!(!ring("a:1\nb:2").is_same(&ring(other)), "{other}");
        }
    }

    #[test]
    fn secrets_of_fewer_than_16_bytes_are_short() {
        let ring = Keyring::parse("a:0123456789abcdef\nb:0123456789abcde\nc:01234567é89abcde\nd:x").unwrap();
        assert_eq!(ring.short().collect::<Vec<_>>(), ["b", "d"]);
    }

    #[test]
    fn every_changed_character_of_a_signature_is_refused() {
        let signature = sign(b"k", HASH);
        for at in 0..signature.len() {
            let other = if &signature[at..=at] == "0" { "1" } else { "0" };
            let changed = format!("{}{other}{}", &signature[..at], &signature[at + 1..]);
            assert!(!verify(b"k", HASH, &changed));
        }
        for other in ["", "zz", &signature[..63], &signature.to_uppercase()] {
            assert!(!verify(b"k", HASH, other), "{other}");
        }
    }

    #[test]
    fn a_secret_is_everything_after_the_first_colon() {
        let ring = Keyring::parse("# keys\n\nnew: a:b \n  \nold:x\n").unwrap();
        assert_eq!(ring.signing_key(), ("new", &b" a:b "[..]));
        assert_eq!(ring.get("old"), Some(&b"x"[..]));
        assert_eq!(ring.get("none"), None);
        assert_eq!(ring.verify("none", HASH, "00"), None);
        assert_eq!(ring.iter().count(), 2);
    }

    #[test]
    fn a_secret_is_the_same_whichever_way_its_line_ends() {
        let ring = Keyring::parse("# keys\nnew:a b\n\nold:x\r y\n").unwrap();
        for text in ["# keys\r\nnew:a b\r\n\r\nold:x\r y\r\n", "new:a b\r\nold:x\r y\n", "new:a b\nold:x\r y"] {
            assert!(Keyring::parse(text).unwrap().is_same(&ring), "{text:?}");
        }
    }

    #[test]
    fn a_secret_never_ends_with_a_carriage_return() {
        for (text, line) in [("a:1\r\r\n", 1), ("a:1\r\nb:2\r", 2), ("a:\r\r\n", 1)] {
            let error = Keyring::parse(text).unwrap_err();
            let expected = KeyringError { line: Some(line), reason: "the secret ends with a carriage return" };
            assert_eq!(error, expected, "{text:?}");
        }
        assert!(Keyring::single("default", b"hunter2\r").is_err());
        assert_eq!(Keyring::parse("a:\r\n").unwrap_err().reason, "the secret is empty");
    }

    #[test]
    fn a_secret_that_no_line_of_a_file_can_hold_is_refused() {
        for secret in ["hunter2\n", "hunter2\r\n", "hun\nter2", "\n"] {
            let error = Keyring::single("default", secret.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, "the secret contains a newline", "{secret:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_key_id() {
        for text in ["\u{feff}a:1\n", "\u{feff}# keys\na:1\n", "\u{feff}"] {
            let error = Keyring::parse(text).unwrap_err().to_string();
            assert_eq!(error, "it begins with a byte order mark: save it as UTF-8 without one", "{text:?}");
        }
    }

    #[test]
    fn a_bad_secret_file_is_refused_by_line_without_showing_a_secret() {
        let long = format!("ok:1\n{}:hunter2", "k".repeat(65));
        let cases = [
            ("", None),
            ("# only\n", None),
            ("hunter2", Some(1)),
            ("a:1\n:hunter2", Some(2)),
            ("a:1\n\nb:", Some(3)),
            ("a:1\na:hunter2", Some(2)),
            (&long, Some(2)),
        ];
        for (text, line) in cases {
            let error = Keyring::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert!(Keyring::parse(format!("{}:s", "é".repeat(64))).is_ok());
        assert!(Keyring::single("", b"s").is_err());
        assert!(Keyring::single("default", b"").is_err());
    }

    #[test]
    fn a_ring_takes_on_the_keys_that_were_added_when_it_first_lacks_one() {
        let reads = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = Arc::clone(&reads);
        let read = move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Keyring::parse("new:2\nold:changed").ok()
        };
        let ring = Keyring::parse("old:1").unwrap().rereading(read);
        let clone = ring.clone();
        let verify = |ring: &Keyring, key_id, secret| ring.verify(key_id, HASH, &sign(secret, HASH));
        let reads = || reads.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(verify(&ring, "old", b"1"), Some(true));
        assert_eq!(reads(), 0);
        for ring in [&ring, &clone] {
            assert_eq!(verify(ring, "new", b"2"), Some(true));
            assert_eq!(verify(ring, "new", b"3"), Some(false));
            assert_eq!(verify(ring, "old", b"1"), Some(true), "a key of its own stays");
            assert_eq!(verify(ring, "none", b"2"), None);
            assert_eq!(ring.iter().map(|(key_id, _)| key_id).collect::<Vec<_>>(), ["old", "new"]);
            assert_eq!(ring.signing_key().0, "old");
        }
        assert_eq!(reads(), 1);
        let unreadable = Keyring::parse("old:1").unwrap().rereading(|| None);
        assert_eq!(verify(&unreadable, "new", b"2"), None);
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let ring = Keyring::parse("default:hunter2").unwrap();
        assert_eq!(format!("{ring:?}"), r#"["default"]"#);
    }
}
