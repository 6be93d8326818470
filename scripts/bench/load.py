"""A load: statements of 1,000 rows, one after the other, by two clients, who record more than the worker
seals with its rests."""

from contenders import AUDIT, BODY, PLAIN, SYNC, WRITE
from inserts import SEALING_HELD, Run
from results import Workload
from run import measure_run

WORKLOAD = Workload("load", "load, 1,000 rows a statement, 2 clients", "rows/s", PLAIN)
ROWS = 1_000
CLIENTS = 2
TABLE = "loaded"
SCRIPT = f"""INSERT INTO {{table}}
SELECT gen_random_uuid(), 'item number ' || n, :body, now() FROM generate_series(1, {ROWS}) AS n;
"""
COMPARED = (PLAIN, AUDIT, SYNC, WRITE)


def measure_one(results, run, seconds):
    contender = run.contender

    def write():
        with run.circumstances():
            done = contender.server.pgbench(SCRIPT.format(table=contender.table(TABLE)), CLIENTS, seconds,
                                            variables={"body": BODY})
        rows = done.transactions * ROWS
        contender.written[TABLE] += rows
        return rows, done.seconds

    contender.server.session.run(f"TRUNCATE {contender.table(TABLE)}")
    if contender.ledger is not None:
        # Without this it would begin as large as the load before has left it.
        contender.ledger.shrink_pending()
    contender.prepare()
    measure_run(results, WORKLOAD, run.name, contender, write)


def measure(results, contenders, scale, say):
    compared = [contender for contender in contenders if contender.name in COMPARED]
    for contender in compared:
        contender.create_table(TABLE)
    runs = [Run(contender) for contender in compared]
    runs += [Run(contender, is_held=True) for contender in compared if contender.name in SEALING_HELD]
    for number, _, run in scale.interleaved((None,), runs):
        say(f"load, round {number} of {scale.rounds}: {run.name}")
        measure_one(results, run, scale.load_seconds)
    for contender in compared:
        contender.check(TABLE)
        contender.server.session.run(f"TRUNCATE {contender.table(TABLE)}")
