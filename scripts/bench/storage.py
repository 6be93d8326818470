"""How many bytes a recorded row takes, and where."""

from contenders import AUDIT, CHAIN, PLAIN, ROW, SYNC
from results import Workload

TABLE = "stored"
LOGS = {AUDIT: "audit_log", CHAIN: "chain_log"}

# Relations of the ledger that keep what is sealed.
SEALED = {
    "entries": "SELECT inhrelid FROM pg_inherits WHERE inhparent = 'ledger.entries_sealed'::regclass",
    "row versions": "SELECT 'ledger.row_versions'::regclass",
    "blocks": "SELECT 'ledger.blocks'::regclass",
    "tree": "SELECT 'ledger.log_nodes'::regclass",
}


def workload(rows):
    return Workload("storage", f"storage, {rows:,} rows inserted and sealed", "bytes/row", PLAIN)


def heap_and_indexes(session, relations):
    row = session.value(f"SELECT sum(pg_table_size(r)), sum(pg_indexes_size(r)) FROM ({relations}) AS x(r)")
    heap, indexes = row.split("|")
    return int(heap or 0), int(indexes or 0)


def sizes(contender):
    """Bytes by place."""
    session = contender.server.session
    places = {"table": f"SELECT '{contender.table(TABLE)}'::regclass"}
    if contender.name in LOGS:
        places["log"] = f"SELECT '{LOGS[contender.name]}'::regclass"
    if contender.ledger is not None:
        places |= SEALED
    found = {}
    for place, relations in places.items():
        found[f"{place} heap"], found[f"{place} indexes"] = heap_and_indexes(session, relations)
    if contender.ledger is not None:
        found["file"] = int(session.value("SELECT bytes FROM ledger.mirror_status"))
    return found


def measure_one(results, contender, rows):
    session = contender.server.session
    contender.prepare()
    if contender.ledger is not None:
        contender.ledger.seal_all()
    before, position = sizes(contender), contender.server.wal_position()
    session.run(f"INSERT INTO {contender.table(TABLE)} SELECT {ROW} FROM generate_series(1, {rows}) AS n")
    if contender.ledger is not None:
        contender.ledger.wait_until_quiet()
        contender.ledger.seal_all()
    wal = (contender.server.wal_position() - position) / rows
    after = sizes(contender)
    notes = {place: (after[place] - before[place]) / rows for place in after}
    in_database = sum(size for place, size in notes.items() if place != "file")
    results.add(workload(rows), contender.name, in_database, **notes, WAL=wal)


def measure(results, contenders, scale, say):
    say("storage")
    compared = [contender for contender in contenders if contender.name in (PLAIN, AUDIT, CHAIN, SYNC)]
    for contender in compared:
        contender.create_table(TABLE)
        contender.server.session.run(f"TRUNCATE {contender.table(TABLE)}")
    # What other kinds have left to autovacuum would be in somebody's WAL.
    compared[0].server.session.run("VACUUM ledger.entries_pending, ledger.entries_sealed")
    for contender in compared:
        measure_one(results, contender, scale.bulk_rows)
