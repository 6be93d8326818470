//! What the tests of tracked tables have in common: what a verification says of their rows, and that it is right.

use super::ledger::*;
use super::{Cluster, Options};
use postgres::Client;

/// Turns off the triggers of the application's tables, and not those of the ledger.
pub const APPLICATION_TRIGGERS_OFF: &str = "
DO $$
DECLARE
    t regclass;
BEGIN
    FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER ALL', t);
    END LOOP;
END $$";

/// The triggers that record, of all tables that have them, as they were.
pub const TRACKING_ON: &str = "
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT tgrelid::regclass AS name, tgname FROM pg_trigger
             WHERE tgname IN ('ledger_record_change', 'ledger_record_truncate') LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.name, t.tgname);
    END LOOP;
END $$";

/// Six rows of which one was changed twice and one deleted, sealed; then a row inserted and one changed, pending.
pub const STORY: &str = "
INSERT INTO memories (id, agent, content) SELECT n, 'agent ' || n % 2, 'memory ' || n FROM generate_series(1, 6) n;
UPDATE memories SET content = 'second version' WHERE id = 2;
UPDATE memories SET content = 'third version' WHERE id = 2;
DELETE FROM memories WHERE id = 6;";

pub const STORY_GOES_ON: &str = "
INSERT INTO memories (id, agent, content) VALUES (7, 'agent 1', 'memory 7');
UPDATE memories SET content = 'another version' WHERE id = 3;";

pub const MEMORIES: &str =
    "CREATE TABLE memories (id int PRIMARY KEY, agent text NOT NULL, content text NOT NULL, seen int DEFAULT 0)";

/// A ledger with this story of a table, which is tracked with these options.
pub fn start_with_memories(options: &str) -> (Cluster, Client) {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_size = 4").conf("ledger.block_interval = 1h"));
    client.batch_execute(MEMORIES).unwrap();
    client.batch_execute(&format!("SELECT ledger.track('memories'{options})")).unwrap();
    for statement in STORY.split_inclusive(';') {
        client.batch_execute(statement).unwrap();
    }
    seal(&mut client);
    client.batch_execute(STORY_GOES_ON).unwrap();
    assert_clean(&mut client, "memories");
    (cluster, client)
}

/// What verify_table() reports, as `KEY PROBLEM`.
#[track_caller]
pub fn problems(client: &mut Client, table: &str) -> Vec<String> {
    let sql = format!("SELECT concat_ws(' ', row_key, problem) AS p FROM ledger.verify_table('{table}') ORDER BY p");
    column(client, &sql)
}

/// What verify_table() reports in full, for people.
#[track_caller]
pub fn details(client: &mut Client, table: &str) -> Vec<String> {
    column(client, &format!("SELECT concat_ws(' ', row_key, problem, detail) FROM ledger.verify_table('{table}')"))
}

#[track_caller]
pub fn all_valid(client: &mut Client) -> bool {
    json(client, "SELECT ledger.verify_all()")["overall_valid"] == true
}

/// Every row is what was recorded, and the ledger is whole.
#[track_caller]
pub fn assert_clean(client: &mut Client, table: &str) {
    let found = details(client, table);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let verdict = json(client, "SELECT ledger.verify_all()");
    assert!(verdict["overall_valid"] == true, "{verdict:#}");
}

/// The newest version of every row is the row, for a table whose images are kept and whose key is `id`; and the newest
/// version of every row that was there once and is gone says so, or that it is elsewhere.
#[track_caller]
pub fn assert_history_agrees(client: &mut Client, table: &str) {
    let newest = format!(
        "SELECT * FROM ledger.history('{table}', jsonb_build_object('id', k.id)) ORDER BY version DESC LIMIT 1"
    );
    let differing = format!(
        "WITH keys AS (SELECT DISTINCT (metadata->'key'->>'id')::int AS id FROM ledger.entries \
                       WHERE metadata ? 'key' AND entry_type LIKE 'table_%') \
         SELECT concat_ws(' ', k.id, to_jsonb(t), h.operation, h.after) FROM keys AS k \
         LEFT JOIN {table} AS t USING (id) CROSS JOIN LATERAL ({newest}) AS h \
         WHERE CASE WHEN t.id IS NULL THEN (h.after->>'id')::int = k.id \
                    ELSE h.after IS DISTINCT FROM jsonb_strip_nulls(to_jsonb(t)) END"
    );
    let found = column(client, &differing);
    assert!(found.is_empty(), "the newest version is not the row: {found:#?}");
}

/// How many entries there are about the rows of a table.
#[track_caller]
pub fn row_entries(client: &mut Client, table: &str) -> i64 {
    let sql =
        "SELECT count(*) FROM ledger.entries e JOIN ledger.tracked_tables t ON t.table_id = e.metadata->>'table_id' \
               WHERE e.metadata ? 'key'";
    number(client, &format!("{sql} AND t.table_name = '{table}'::regclass"))
}

/// Waits until the rows that were there before are recorded.
#[track_caller]
pub fn wait_until_tracked(client: &mut Client, table: &str) {
    wait_for(
        client,
        &format!("(SELECT state = 'tracked' FROM ledger.tracked_tables WHERE table_name = '{table}'::regclass)"),
    );
}

/// The history of each row of table `items` has the entries that a search of all finds, and rows that never were have
/// none.
#[track_caller]
pub fn assert_history_is_whole(client: &mut Client) {
    let wrong = "WITH noted AS (
            SELECT id, (SELECT array_agg(entry_id::uuid ORDER BY version)
                        FROM ledger.history('items', jsonb_build_object('id', id))) AS found
            FROM generate_series(-20, 1400) AS id),
        searched AS (
            SELECT key::int AS id, array_agg(e.id ORDER BY created_at, e.id) AS found
            FROM ledger.entries AS e, LATERAL (VALUES (metadata->'key'->>'id'), (metadata->'old_key'->>'id')) AS k(key)
            WHERE key IS NOT NULL GROUP BY key)
        SELECT count(*) FROM noted LEFT JOIN searched USING (id) WHERE noted.found IS DISTINCT FROM searched.found";
    assert_eq!(number(client, wrong), 0);
}
