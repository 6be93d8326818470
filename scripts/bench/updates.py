"""UPDATE of one row of a large table, a transaction each."""

from contenders import ID, OTHER_BODY, PLAIN
from results import Workload
from run import measure_run

SCRIPT = f"""\\set n random(1, :rows)
UPDATE {{table}} SET body = :body, seen_at = now() WHERE id = {ID.format(n=':n')};
"""
TABLE = "large"


def update_id(clients):
    return f"update-{clients}"


def workload(clients, rows):
    title = f"UPDATE of one row of {rows:,}, {clients} client{'s' if clients > 1 else ''}"
    return Workload(update_id(clients), title, "rows/s", PLAIN)


def prepare(contender):
    """Each run begins with a table without what earlier updates have left in it. It is written anew after the checkpoint:
    had it been before, nearly every update would be the first of its page, and write 7 KB of WAL for that alone, which
    would make all contenders alike. Then it is read, by its index so that it stays in memory, where it would else be
    for those alone that share their cluster with few others."""
    contender.prepare()
    session, table = contender.server.session, contender.table(TABLE)
    session.run(f"VACUUM (FULL, ANALYZE) {table}")
    session.run("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off")
    session.run(f"SELECT count(seen_at) FROM (SELECT seen_at FROM {table} ORDER BY id OFFSET 0) AS by_index")
    session.run("RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_indexonlyscan")


def measure_one(results, contender, clients, scale):
    def write():
        run = contender.server.pgbench(SCRIPT.format(table=contender.table(TABLE)), clients, scale.seconds,
                                       variables={"body": OTHER_BODY, "rows": scale.table_rows})
        contender.written[TABLE] += run.transactions
        return run.transactions, run.seconds

    prepare(contender)
    measure_run(results, workload(clients, scale.table_rows), contender.name, contender, write)


def set_up(contenders, rows):
    for contender in contenders:
        contender.create_table(TABLE, rows)
    # Tracking a table records the rows that it has. What that leaves to autovacuum would be done during somebody's run.
    for server in dict.fromkeys(contender.server for contender in contenders):
        server.session.run("VACUUM ANALYZE")


def measure(results, contenders, scale, say):
    say(f"tables of {scale.table_rows:,} rows")
    set_up(contenders, scale.table_rows)
    for number, clients, contender in scale.interleaved(scale.update_clients, contenders):
        say(f"UPDATE, round {number} of {scale.rounds}, {clients} clients: {contender.name}")
        measure_one(results, contender, clients, scale)
    for contender in contenders:
        contender.check(TABLE, "update")
