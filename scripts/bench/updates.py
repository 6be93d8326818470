"""UPDATE of one row of a large table, a transaction each."""

from contenders import ID, OTHER_BODY, PLAIN
from inserts import catch_up_notes
from results import Workload

SCRIPT = f"""\\set n random(1, :rows)
UPDATE {{table}} SET body = :body, seen_at = now() WHERE id = {ID.format(n=':n')};
"""
TABLE = "large"


def update_id(clients):
    return f"update-{clients}"


def workload(clients, rows):
    title = f"UPDATE of one row of {rows:,}, {clients} client{'s' if clients > 1 else ''}"
    return Workload(update_id(clients), title, "rows/s", PLAIN)


def measure_one(results, contender, clients, scale):
    contender.prepare()
    position = contender.server.wal_position()
    run = contender.server.pgbench(SCRIPT.format(table=contender.table(TABLE)), clients, scale.seconds,
                                   variables={"body": OTHER_BODY, "rows": scale.table_rows})
    wal = contender.server.wal_position() - position
    results.add(workload(clients, scale.table_rows), contender.name, run.rate,
                **{"wal bytes/row": wal / run.transactions}, **catch_up_notes(contender.work_off()))


def measure(results, contenders, scale, say):
    say(f"tables of {scale.table_rows:,} rows")
    for contender in contenders:
        contender.create_table(TABLE, scale.table_rows)
    for number, clients, contender in scale.interleaved(scale.update_clients, contenders):
        say(f"UPDATE, round {number} of {scale.rounds}, {clients} clients: {contender.name}")
        measure_one(results, contender, clients, scale)
