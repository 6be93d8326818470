#!/usr/bin/env bash
# The main job, told with psql. Runs inside demo.sh, which has set PATH, PGHOST, PGPORT, PGUSER and PGDATABASE.
# PG_NOTARY_CLI names the offline verifier. Everything the story claims it has checked: a step
# that does not show what it says ends the demo.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")"
export PGCLIENTENCODING=UTF8 PGOPTIONS='-c client_min_messages=warning' PYTHONUTF8=1

CONNECTIONS=6
# Seconds. What is waited for takes one or two; a slow disk may take its time.
DEADLINE=60

SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

# ---- telling and checking -------------------------------------------------------------------------------------------

heading() { printf '\n%s\n' "$1"; }
# tell FORMAT [ARGUMENT...]
tell() {
    # shellcheck disable=SC2059
    printf "  $1\n" "${@:2}"
}
fail() {
    printf 'demo: %s\n' "$@" >&2
    exit 1
}
# expect WHAT EXPECTED ACTUAL
expect() { [ "$3" = "$2" ] || fail "$1: expected $2, got ${3:-nothing}"; }

# sql QUERY [PSQL OPTION...]: the bare result, columns separated by |.
sql() {
    local query=$1
    shift
    psql -X -q -A -t -v ON_ERROR_STOP=1 "$@" <<<"$query"
}
# wait_until WHAT QUERY: until the query gives t.
wait_until() {
    local until=$((SECONDS + DEADLINE))
    while [ "$(sql "$2")" != t ]; do
        [ "$SECONDS" -lt "$until" ] || fail "waited $DEADLINE seconds in vain for $1"
        sleep 0.1
    done
}
# with_commas EXPRESSION
with_commas() { sql "SELECT trim(to_char($1, '999,999,999,990'))"; }

# expect_chain TABLES FILE OVERALL: what verify_chain says of each. Sets CHAIN, the numbers.
expect_chain() {
    local verdict
    IFS='|' read -r verdict CHAIN <<<"$(sql "SELECT concat_ws(' ', r #>> '{postgres_chain,valid}', r #>> '{file_chain,valid}',
            r ->> 'overall_valid'),
        format('%s blocks, %s entries, %s problems in the tables, %s in the file', r #>> '{postgres_chain,block_count}',
            r #>> '{postgres_chain,entry_count}', r #>> '{postgres_chain,error_count}', r #>> '{file_chain,error_count}')
        FROM ledger.verify_chain() AS r")"
    expect "verify_chain, validity of tables, file, both" "$*" "$verdict"
}
# offline FILE STATUS: runs the offline verifier, which must end with this status.
offline() {
    local status=0
    "$PG_NOTARY_CLI" verify --secret-file "$KEY_FILE" "$1" >"$SCRATCH/offline" 2>&1 || status=$?
    [ "$status" = "$2" ] || fail "pg_notary verify ended with $status, not $2:" "$(cat "$SCRATCH/offline")"
}

# ---- set-up ---------------------------------------------------------------------------------------------------------

# DOCUMENTS, WHAT, SUBJECT and the others; and one SQL script a connection.
assignments=$(python3 demo_story.py documents "$SCRATCH" "$CONNECTIONS") || fail "there is nothing to record"
eval "$assignments"

sql "CREATE EXTENSION pg_notary"
# The key the server signs with, made by the server itself in a file that nobody else can read.
sql "COPY (SELECT 'demo:' || encode(sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea), 'hex'))
     TO PROGRAM 'umask 077 && cat > demo.key'"
sql "ALTER SYSTEM SET ledger.hmac_secret_file = 'demo.key'"
sql "ALTER SYSTEM SET ledger.block_interval = '2s'"
expect "pg_reload_conf" t "$(sql "SELECT pg_reload_conf()")"
wait_until "the new settings" "SELECT current_setting('ledger.block_interval') = '2s'"
wait_until "the background worker and the mirror file" "SELECT state = 'attached' FROM ledger.mirror_status"
KEY_FILE=$(sql "SELECT current_setting('data_directory') || '/demo.key'")
MIRROR=$(sql "SELECT path FROM ledger.mirror_status")
SERVER=$(sql "SELECT 'PostgreSQL ' || current_setting('server_version')")

# ---- the story ------------------------------------------------------------------------------------------------------

heading "pg_notary on $SERVER, in a cluster made for this demo"

heading "1. Record: each document is hashed, signed and mirrored to a file in the commit that records it"
started=$EPOCHREALTIME
pids=()
for ((i = 1; i <= CONNECTIONS; i++)); do
    psql -X -q -A -t -v ON_ERROR_STOP=1 -f "$SCRATCH/record.$i.sql" -o "$SCRATCH/receipts.$i" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "a connection could not record its documents"; done
ended=$EPOCHREALTIME
cat "$SCRATCH"/receipts.* >"$SCRATCH/receipts"
expect "receipts" "$DOCUMENTS" "$(grep -c '"file_recorded": true' "$SCRATCH/receipts")"
expect "entries in the table" "$DOCUMENTS" "$(sql "SELECT count(*) FROM ledger.entries")"
expect "entries in the file" "$DOCUMENTS" "$(grep -c '"record_type": "entry"' "$MIRROR")"
expect "unsigned entries" 0 "$(sql "SELECT count(*) FROM ledger.entries WHERE signature IS NULL")"
total=$(with_commas "$DOCUMENTS")
seconds=$(sql "SELECT round($ended - $started, 1)")
rate=$(with_commas "round($DOCUMENTS / ($ended - $started))")
syncs=$(with_commas "(SELECT syncs FROM ledger.mirror_status)")
tell '%s' "$WHAT"
tell '%s documents over %s connections, a commit for each, in %s seconds: %s a second' \
    "$total" "$CONNECTIONS" "$seconds" "$rate"
tell '%s syncs of the mirror file served all of these commits' "$syncs"

heading "2. Seal: the background worker gathers entries into hash-chained blocks"
wait_until "the worker to seal everything" "SELECT pending_count = 0 FROM ledger.chain_stats"
wait_until "the last block to be in the file" \
    "SELECT m.last_block = c.block_count FROM ledger.mirror_status AS m, ledger.chain_stats AS c"
blocks=$(sql "SELECT count(*) FROM ledger.blocks")
expect "entries in blocks" "$DOCUMENTS" "$(sql "SELECT sum(data_count) FROM ledger.blocks")"
expect "blocks in the file" "$blocks" "$(grep -c '"record_type": "block"' "$MIRROR")"
IFS='|' read -r worker sealed <<<"$(sql "SELECT pid, blocks_sealed FROM ledger.workers WHERE database = current_database()")"
expect "blocks sealed by the worker" "$blocks" "$sealed"
sql "SELECT block_number, data_count, previous_hash, merkle_root, tree_root, block_hash
     FROM ledger.blocks ORDER BY block_number DESC LIMIT 1" -x >"$SCRATCH/block"
expect "columns of the last block" 6 "$(grep -c '|' "$SCRATCH/block")"
tell '%s blocks, all sealed by process %s; the last one:' "$blocks" "$worker"
while IFS='|' read -r name value; do tell '  %-13s  %s' "$name" "$value"; done <"$SCRATCH/block"

heading "3. Verify one document: was exactly this recorded?"
hash=$(sql "SELECT ledger.hash_data(:'data')" -v data="$SUBJECT")
receipt=$(grep -m 1 -F "$hash" "$SCRATCH/receipts") || fail "there is no receipt of $SUBJECT_NAME"
IFS='|' read -r ENTRY HASH signature <<<"$(sql "SELECT r ->> 'entry_id', r ->> 'data_hash', r ->> 'signature'
    FROM (VALUES (:'receipt'::jsonb)) AS v(r)" -v receipt="$receipt")"
expect "data_hash in the receipt" "$hash" "$HASH"
tell '%s %s%s' "$SUBJECT_NAME" "$VERSION" "${SUBJECT_OWNER:+, $SUBJECT_OWNER}"
tell '  entry_id       %s' "$ENTRY"
tell '  data_hash      %s' "$HASH"
tell '  signature      %s' "$signature"
answer=$(sql "SELECT ledger.verify_entry(:'entry', :'data')" -v entry="$ENTRY" -v data="$SUBJECT")
[[ $answer = *'"included": true, "verified": true'* ]] || fail "the document does not verify: $answer"
tell 'as recorded      %s' "$answer"
answer=$(sql "SELECT ledger.verify_entry(:'entry', :'data')" -v entry="$ENTRY" -v data="$OTHER_SUBJECT")
[[ $answer = *'"verified": false, "hash_valid": false'* ]] || fail "a changed document verifies: $answer"
tell 'one byte changed %s' "$answer"

heading "4. Verify everything: the tables and the file, each by itself and against each other"
expect_chain true true true
tell 'verify_chain():  valid; %s' "$CHAIN"
offline "$MIRROR" 0
grep -qx VALID "$SCRATCH/offline" || fail "the offline verifier does not say VALID"
expect "entries, offline" "$DOCUMENTS" "$(awk '$1 == "entries" { print $2 }' "$SCRATCH/offline")"
tell 'pg_notary verify %s, without the server: VALID, exit status 0' "${MIRROR##*/}"

heading "5. Change one byte in the table, behind the ledger's back"
if sql "UPDATE ledger.entries SET metadata = '{}' WHERE id = :'entry'" -v entry="$ENTRY" 2>"$SCRATCH/refused"; then
    fail "an UPDATE of an entry was not refused"
fi
refused=$(grep -m 1 -o 'ERROR: .*' "$SCRATCH/refused") || fail "not refused as expected: $(cat "$SCRATCH/refused")"
tell 'a superuser tries an UPDATE: %s' "$refused"
IFS='|' read -r PARTITION BLOCK LEAF <<<"$(sql "SELECT tableoid::regclass, block_number, leaf_index
    FROM ledger.entries WHERE id = :'entry'" -v entry="$ENTRY")"
# forge FROM TO: the triggers off, the version in the entry's metadata changed, the triggers on again.
forge() {
    local rows
    rows=$(sql "ALTER TABLE $PARTITION DISABLE TRIGGER refuse_row;
         ALTER TABLE $PARTITION DISABLE TRIGGER refuse_statement;
         UPDATE $PARTITION SET metadata = jsonb_set(metadata, '{version}', to_jsonb(:'new'::text))
             WHERE id = :'entry' AND metadata ->> 'version' = :'old' RETURNING 1;
         ALTER TABLE $PARTITION ENABLE ALWAYS TRIGGER refuse_row;
         ALTER TABLE $PARTITION ENABLE ALWAYS TRIGGER refuse_statement" -1 -v entry="$ENTRY" -v old="$1" -v new="$2")
    expect "rows forged" 1 "$rows"
}
forge "$VERSION" "$OTHER_VERSION"
tell 'then with the triggers disabled: version %s of %s becomes %s' "$VERSION" "$SUBJECT_NAME" "$OTHER_VERSION"
expect_chain false true false
sql "SELECT concat_ws(' ', 'block', block_number, 'leaf ' || leaf_index, 'entry ' || entry_id) || ': ' || problem
     FROM ledger.find_tampering()" >"$SCRATCH/found"
grep -qx "block $BLOCK leaf $LEAF entry $ENTRY: entry_differs" "$SCRATCH/found" ||
    fail "the entry is not named:" "$(cat "$SCRATCH/found")"
tell 'find_tampering():'
while IFS= read -r found; do tell '  %s' "$found"; done <"$SCRATCH/found"
forge "$OTHER_VERSION" "$VERSION"
expect "problems after changing it back" 0 "$(sql "SELECT count(*) FROM ledger.find_tampering()")"
expect_chain true true true
tell 'changed back:    valid; %s' "$CHAIN"

heading "6. Change one byte in a copy of the file"
copy=$SCRATCH/copy.jsonl
cp "$MIRROR" "$copy"
other=$([ "${HASH:0:1}" = 7 ] && echo 8 || echo 7)${HASH:1}
LINE=$(python3 demo_story.py change "$copy" "\"data_hash\": \"$HASH\", \"entry_id\": \"$ENTRY\"" \
    "\"data_hash\": \"$other\", \"entry_id\": \"$ENTRY\"")
tell 'in line %s: data_hash %s… becomes %s…' "$LINE" "${HASH:0:8}" "${other:0:8}"
offline "$copy" 1
grep -q "block $BLOCK leaf $LEAF entry $ENTRY: line $LINE:" "$SCRATCH/offline" ||
    fail "the line is not named:" "$(cat "$SCRATCH/offline")"
tell 'pg_notary verify copy.jsonl: exit status 1'
# Whole hashes would fill the screen.
sed -n '/^TAMPERED/,$p' "$SCRATCH/offline" | sed -E 's/\<([0-9a-f]{8})[0-9a-f]{56}\>/\1…/g; s/^/    /'
offline "$MIRROR" 0
tell 'pg_notary verify of the untouched file: VALID, exit status 0'

heading "7. Items: a tool that an agent runs must be what was signed, where it was signed"
TOOL="'tool', 'backup', '1.0.0'"
sql "SELECT ledger.create_item($TOOL, E'#!/bin/sh\\ntar -cf backup.tar data\\n', '.ai/tools/core/backup.sh')" >"$SCRATCH/signed"
loads() {
    sql "SELECT ledger.load_item($TOOL)" >"$SCRATCH/tool" 2>"$SCRATCH/refused" || fail "$1 is refused: $(cat "$SCRATCH/refused")"
    grep -qx "$2" "$SCRATCH/tool" || fail "$1 is not what was signed: $(cat "$SCRATCH/tool")"
    tell '%-10s load_item() gives: %s' "$1:" "$2"
}
# refuses WHAT ERROR [PATH]
refuses() {
    if sql "SELECT ledger.load_item($TOOL${3:+, '$3'})" >/dev/null 2>"$SCRATCH/refused"; then fail "$1 is not refused"; fi
    grep -q "ERROR:  $2" "$SCRATCH/refused" || fail "$1 is refused otherwise: $(cat "$SCRATCH/refused")"
    tell '%-10s load_item() refuses: %s' "$1:" "$2"
}
loads signed 'tar -cf backup.tar data'
sql "UPDATE ledger.items SET content = replace(content, 'tar', 'rm -rf / #')"
refuses edited 'Content has been modified since last validation'
sql "SELECT ledger.sign_item($TOOL, E'#!/bin/sh\\ntar -czf backup.tgz data\\n')" >"$SCRATCH/signed"
loads re-signed 'tar -czf backup.tgz data'
sql "SELECT ledger.move_item($TOOL, '.ai/tools/ops/backup.sh')" >"$SCRATCH/signed"
loads moved 'tar -czf backup.tgz data'
refuses 'old place' 'Not signed for this location' .ai/tools/core/backup.sh
sql "SELECT ledger.revoke_signature($TOOL, 'overwrites the last good backup')" >"$SCRATCH/signed"
refuses revoked 'Signature revoked'
sql "UPDATE ledger.items SET revoked_at = NULL, revoked_reason = NULL"
refuses 'undone' 'Signature revoked'
expect "entries about the tool" "item_moved 1|item_revoked 1|item_signed 2" "$(sql "SELECT string_agg(entry_type || ' ' || n, '|' ORDER BY entry_type)
    FROM (SELECT entry_type, count(*) AS n FROM ledger.entries WHERE entry_type LIKE 'item%' GROUP BY 1) AS counts")"
tell 'all of it is in the ledger: 2 signatures, a move, a revocation'

printf '\nEach of these claims was checked as it was printed. The demo has passed.\n'
