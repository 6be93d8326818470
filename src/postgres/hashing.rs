//! SQL functions that compute and keep nothing: canonical JSON, hashes, signatures, Merkle roots and proofs.

use super::errors::{or_raise, Failure};
use super::jsonb::{self, Json, Jsonb, JsonbText};
use super::secrets;
use crate::ledger::merkle::{self, ProofStep, Side};
use crate::ledger::pauses::Pauses;
use crate::ledger::{parse_hash, sha256_hex, shortened, signature};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::{json, Value};

/// Refuses anything but 64 lower-case hex digits.
pub fn check_hash(what: &str, text: &str) -> Result<(), Failure> {
    if parse_hash(text).is_some() {
        return Ok(());
    }
    Err(Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid {what}"))
        .detail(format!("\"{}\" is not a SHA-256 hash: 64 lower-case hex digits.", shortened(text, SHOWN)))
        .hint("ledger.hash_data(jsonb) and ledger.hash_json(json) compute such a hash."))
}

/// How much of a wrong value an error shows.
const SHOWN: usize = 80;

#[pg_extern(name = "canonical_json", immutable, strict, parallel_safe)]
fn canonical_json_text(data: Jsonb) -> String {
    or_raise(data.canonical())
}

#[pg_extern(immutable, strict, parallel_safe)]
fn hash_data(data: Jsonb) -> String {
    sha256_hex(or_raise(data.canonical()).as_bytes())
}

#[pg_extern(immutable, strict, parallel_safe)]
fn hash_json(data: Json) -> String {
    sha256_hex(or_raise(jsonb::canonical(&data.0)).as_bytes())
}

#[pg_extern(immutable, strict, parallel_safe)]
fn create_signature(data_hash: &str, secret: &[u8]) -> String {
    or_raise(check_hash("data_hash", data_hash));
    signature::sign(secret, data_hash)
}

#[pg_extern(immutable, strict, parallel_safe)]
fn verify_signature(data_hash: &str, signature: &str, secret: &[u8]) -> bool {
    signature::verify(secret, data_hash, signature)
}

#[pg_extern(name = "create_signature", stable, strict, parallel_restricted)]
fn create_signature_with_server_secret(data_hash: &str) -> String {
    or_raise(check_hash("data_hash", data_hash));
    let keyring = or_raise(secrets::required_keyring());
    let (_, secret) = keyring.signing_key();
    signature::sign(secret, data_hash)
}

#[pg_extern(name = "verify_signature", stable, parallel_restricted)]
fn verify_signature_with_server_secret(
    data_hash: Option<&str>,
    signature: Option<&str>,
    key_id: default!(Option<&str>, "NULL"),
) -> Option<bool> {
    let (data_hash, signature) = (data_hash?, signature?);
    let keyring = or_raise(secrets::required_keyring());
    let secret = match key_id {
        None => keyring.signing_key().1,
        Some(key_id) => or_raise(keyring.get(key_id).ok_or_else(unknown_key)),
    };
    Some(signature::verify(secret, data_hash, signature))
}

/// Does not show the key_id: a secret that is given without a type is taken for one, and must not get into a log.
fn unknown_key() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "the server has no HMAC key with this key_id")
        .detail("A third argument that is text, or a literal without a type, is a key_id. A secret of your own has type bytea.")
        .hint("ledger.hmac_secret_file must hold a line for every key_id that was ever used to sign. The secret of INTEGRITY_HMAC_SECRET has the key_id \"default\".")
}

#[pg_extern(immutable, strict, parallel_safe)]
fn merkle_root(hashes: Vec<Option<String>>) -> String {
    merkle::root_pausing(&or_raise(checked_hashes(hashes)), &mut end_if_cancelled)
}

/// The steps from one hash to the root, as a jsonb array of `{"hash", "position"}`.
#[pg_extern(immutable, strict, parallel_safe)]
fn merkle_proof(hashes: Vec<Option<String>>, index: i32) -> JsonbText {
    let hashes = or_raise(checked_hashes(hashes));
    let proof_of = |index| merkle::proof_pausing(&hashes, index, &mut end_if_cancelled);
    let proof = usize::try_from(index).ok().and_then(proof_of);
    let proof = or_raise(proof.ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_ARRAY_ELEMENT_ERROR, format!("index {index} is out of range"))
            .detail(format!("The list has {} hashes, counted from 0.", hashes.len()))
    }));
    let steps: Vec<Value> =
        proof.iter().map(|step| json!({"hash": step.hash, "position": step.side.as_str()})).collect();
    JsonbText(Value::from(steps).to_string())
}

#[pg_extern(immutable, strict, parallel_safe)]
fn verify_merkle_proof(data_hash: &str, proof: Jsonb, root: &str) -> bool {
    or_raise(check_hash("data_hash", data_hash));
    or_raise(check_hash("root", root));
    let steps = or_raise(proof_steps(&proof.text()));
    merkle::verify_proof(data_hash, &steps, root)
}

fn proof_steps(proof: &str) -> Result<Vec<ProofStep>, Failure> {
    let malformed = || {
        Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "malformed Merkle proof")
            .hint("A proof is what ledger.merkle_proof() returns: an array of {\"hash\": text, \"position\": \"left\" or \"right\"}.")
    };
    let steps: Vec<Value> = serde_json::from_str(proof).map_err(|_| malformed())?;
    steps
        .iter()
        .map(|step| {
            let side = step["position"].as_str().and_then(Side::parse).ok_or_else(malformed)?;
            let hash = step["hash"].as_str().ok_or_else(malformed)?;
            check_hash("hash", hash)?;
            Ok(ProofStep { hash: hash.to_owned(), side })
        })
        .collect()
}

/// For work of the domain that may take long.
fn end_if_cancelled() {
    check_for_interrupts!();
}

fn checked_hashes(hashes: Vec<Option<String>>) -> Result<Vec<String>, Failure> {
    let mut pause = end_if_cancelled;
    let mut pauses = Pauses::new(&mut pause);
    hashes
        .into_iter()
        .map(|hash| {
            pauses.step();
            let hash = hash.ok_or_else(|| {
                Failure::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "a list of hashes must not hold nulls")
            })?;
            check_hash("hash", &hash)?;
            Ok(hash)
        })
        .collect()
}

extension_sql!(
    r#"
CREATE AGGREGATE ledger.merkle_root(text) (
    SFUNC = pg_catalog.array_append, STYPE = text[], INITCOND = '{}', FINALFUNC = ledger.merkle_root, PARALLEL = SAFE
);
"#,
    name = "merkle_root_aggregate",
    requires = [merkle_root]
);
