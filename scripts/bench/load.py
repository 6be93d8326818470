"""A load: statements of 1,000 rows, one after the other, by two clients, who record more than is sealed in a tenth of
the time."""

from contenders import AUDIT, BODY, PLAIN, SYNC, WRITE
from inserts import SEALING_HELD, Run, catch_up_notes
from results import Workload

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
    contender.server.session.run(f"TRUNCATE {contender.table(TABLE)}")
    contender.prepare()
    with run.circumstances():
        done = contender.server.pgbench(SCRIPT.format(table=contender.table(TABLE)), CLIENTS, seconds,
                                        variables={"body": BODY})
    contender.written[TABLE] += done.transactions * ROWS
    results.add(WORKLOAD, run.name, done.rate * ROWS, **catch_up_notes(contender.work_off()))


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
