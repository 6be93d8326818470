"""How cost grows with the ledger: the same work on ledgers of different sizes, in one cluster, in turn."""

import os
import signal
import time
from dataclasses import dataclass

import inserts
import sealing
from contenders import ID, MODES, Contender
from ledger import Ledger
from results import Workload
from run import measure_run
from scale import in_turn
from server import Failed, Server, wait_until
from verification import TABLE, fill, make_ledger

SAMPLE = "sample"
# So many that most are looked up for the first time, in pages that are not in memory.
MOST_SAMPLED = 100_000
VERIFIED = 1_000
# Short, as an entry is as long whatever its row has.
ROW = f"{ID.format(n='n')}, 'item number ' || n, '{{}}', now()"
# Entries without a block when the server crashes.
UNSEALED = 20_000
# More than the first entries, about the table itself.
NOT_ABOUT_ROWS = 10
# What grows with the ledger, and the small table that churns.
GROWING = "ledger.entries_sealed, ledger.row_versions, ledger.blocks, ledger.log_nodes"

INSERT = Workload("growth-insert", "single-row INSERT into a tracked table, 16 clients", "rows/s")
SEALING = Workload("growth-sealing", "sealing a backlog", "entries/s")
VACUUM = Workload("growth-vacuum", "VACUUM of what is sealed, after that backlog", "seconds")
VACUUM_PENDING = Workload("growth-vacuum-pending", "VACUUM of what was pending", "seconds")
RECOVERY = Workload("growth-recovery", "from the first connection after a crash to a mirror that takes lines", "seconds")
# In these modes the file has lines that no block has, which recovery has to read.
RECOVERY_MODES = ("sync", "write")
# One client each.
LOOKUPS = {
    Workload("growth-verify-entry", "verify_entry of any entry, with its inclusion path", "us"):
        f"\\set n random(1, :sampled)\nSELECT ledger.verify_entry(id, data) FROM {SAMPLE} WHERE n = :n;\n",
    Workload("growth-verify-row", "verify_row of any row", "us"):
        f"\\set n random(1, :rows)\nSELECT ledger.verify_row('{TABLE}', jsonb_build_object('id', {ID.format(n=':n')}));\n",
    Workload("growth-history", "history of any row", "us"):
        f"\\set n random(1, :rows)\nSELECT count(*) FROM ledger.history('{TABLE}', jsonb_build_object('id', "
        f"{ID.format(n=':n')}));\n",
    Workload("growth-chain-stats", "chain_stats", "us"): "SELECT * FROM ledger.chain_stats;\n",
}
# What each is called in a chart. Of the first two, more is better; of the others, less.
RATES = {INSERT.id: "INSERT", SEALING.id: "sealing"}
TIMES = {VACUUM.id: "VACUUM", VACUUM_PENDING.id: "VACUUM pending", RECOVERY.id: "recovery",
         **{workload.id: workload.id.removeprefix("growth-").replace("-", "_") for workload in LOOKUPS}}


@dataclass
class Grown:
    """A ledger of some size, in a database of its own."""

    entries: int
    name: str
    server: Server
    ledger: Ledger
    contender: Contender


def size_name(entries):
    for limit, suffix in ((1_000_000, "M"), (1_000, "k")):
        if entries >= limit and entries % limit == 0:
            return f"{entries // limit}{suffix} entries"
    return f"{entries} entries"


def references(sizes):
    """Each is compared with the smallest."""
    return {size_name(entries): size_name(sizes[0]) for entries in sizes}


def make(host, port, entries, mode):
    server = Server.create(host, port, f"grown_{entries}")
    ledger = make_ledger(server, mode)
    fill(server, ledger, 1, entries, ROW)
    server.session.run(f"VACUUM ANALYZE {TABLE}")
    server.session.run(f"VACUUM ANALYZE {GROWING}, ledger.entries_pending")
    # Else its index stays as large as the longest time between two autovacuums while filling has made it: a minute, of which to
    # fill the smallest takes less.
    ledger.shrink_pending()
    name = next(name for name, its_mode in MODES.items() if its_mode == mode)
    contender = Contender(name, server, "tracked", attach="SELECT ledger.track('{table}')", ledger=ledger)
    contender.create_table(inserts.TABLE)
    contender.create_table(sealing.TABLE)
    make_sample(server, entries)
    return Grown(entries, size_name(entries), server, ledger, contender)


def sampled(entries):
    return min(MOST_SAMPLED, entries // 2)


def make_sample(server, entries):
    """Entries from the whole of the ledger with the rows they are about. Of those that are tried, all must verify."""
    rows = sampled(entries)
    server.session.run(f"""
        CREATE TABLE {SAMPLE} AS
        SELECT row_number() OVER () AS n, e.id, jsonb_strip_nulls(to_jsonb(t)) AS data
        FROM generate_series(0, {rows - 1}) AS s
        JOIN ledger.entries_sealed AS e ON e.leaf_index = {NOT_ABOUT_ROWS} + s::bigint * ({entries} - {NOT_ABOUT_ROWS}) / {rows}
        JOIN {TABLE} AS t ON t.id = (e.metadata #>> '{{key,id}}')::uuid""")
    server.session.run(f"CREATE INDEX ON {SAMPLE} (n)")
    found = server.session.value(f"SELECT count(*) FROM {SAMPLE}")
    if found != str(rows):
        raise Failed(f"{found} of {rows} entries were found")
    tried = min(VERIFIED, rows)
    verified = server.session.value(f"""
        SELECT count(*) FROM (SELECT * FROM {SAMPLE} ORDER BY hashint8(n) LIMIT {tried}) AS tried
        WHERE (ledger.verify_entry(id, data) ->> 'verified')::boolean AND (ledger.verify_entry(id, data) ->> 'included')::boolean""")
    if verified != str(tried):
        raise Failed(f"{verified} of {tried} entries verify")


def measure_sealing(results, grown, backlog):
    results.add(SEALING, grown.name, sealing.seal_backlog(grown.contender, backlog).rate)


def measure_vacuum(results, grown):
    results.add(VACUUM, grown.name, grown.server.session.seconds(f"VACUUM {GROWING}"))
    results.add(VACUUM_PENDING, grown.name, grown.server.session.seconds("VACUUM ledger.entries_pending"))


def measure_insert(results, grown, seconds):
    def write():
        run = inserts.run_once(grown.contender, 16, seconds)
        return run.transactions, run.seconds

    inserts.prepare(grown.contender)
    measure_run(results, INSERT, grown.name, grown.contender, write)


def measure_lookups(results, grown, seconds):
    # chain_stats and verify_row go through all of it, with what the runs before have left there.
    grown.ledger.shrink_pending()
    for workload, script in LOOKUPS.items():
        variables = {"rows": grown.entries, "sampled": sampled(grown.entries)}
        run = grown.server.pgbench(script, 1, seconds, variables=variables)
        results.add(workload, grown.name, 1e6 / run.rate)


def can_connect(server):
    try:
        server.session.value("SELECT 1")
        return True
    except Failed:
        server.close()
        return False


def close_all(ledgers):
    """A crash ends all sessions; new ones are opened where they are needed."""
    for grown in ledgers:
        grown.server.close()


def has_recovered(grown):
    state = grown.ledger.state()
    return state.is_there and state.lag == 0


def measure_recovery(results, grown, unsealed):
    """The tail of the file to read is as long in every ledger: sealing is held back while it is written. The other ledgers
    recover at the same time, and have no tail. The server's own part of recovery is not counted, as it is the same for all."""
    session, ledger, table = grown.server.session, grown.ledger, grown.contender.table(sealing.TABLE)
    session.run(f"TRUNCATE {table}")
    grown.contender.prepare()
    with ledger.sealing_held(until_crash=True):
        session.run(f"INSERT INTO {table} SELECT {ROW} FROM generate_series(1, {unsealed}) AS n")
        session.run("CHECKPOINT")
        tail = int(ledger.query("SELECT recovery_bytes FROM ledger.mirror_status"))
        # The death of any process makes the postmaster restart all.
        os.kill(ledger.worker_pid(), signal.SIGKILL)
        wait_until("the crash to be noticed", lambda: not can_connect(grown.server), interval=0)
    wait_until("the server", lambda: can_connect(grown.server), interval=0)
    started = time.perf_counter()
    wait_until(f"{grown.name} to recover", lambda: has_recovered(grown), interval=0.001)
    results.add(RECOVERY, grown.name, time.perf_counter() - started, **{"bytes of the file to read": tail})
    ledger.wait_until_quiet()


def measure(results, host, port, scale, say):
    ledgers = []
    for entries in scale.sizes:
        say(f"a ledger of {size_name(entries)}")
        started = time.monotonic()
        ledgers.append(make(host, port, entries, scale.mode))
        say(f"made in {time.monotonic() - started:.0f} seconds")
    for number in range(scale.rounds):
        for grown in in_turn(ledgers, number):
            say(f"{grown.name}, round {number + 1} of {scale.rounds}")
            measure_sealing(results, grown, scale.bulk_rows)
            measure_vacuum(results, grown)
            measure_insert(results, grown, scale.seconds)
            measure_lookups(results, grown, scale.seconds)
        for grown in in_turn(ledgers, number) if scale.mode in RECOVERY_MODES else ():
            say(f"recovery of {grown.name}, round {number + 1} of {scale.rounds}")
            close_all(ledgers)
            measure_recovery(results, grown, UNSEALED)
