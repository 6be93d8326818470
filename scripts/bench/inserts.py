"""Single-row INSERT, a transaction each, by more and more clients."""

import os
import tempfile
import time

from contenders import AUDIT, BODY, PLAIN, SYNC, WRITE
from results import Workload

SCRIPT = """\\set n random(1, 1000000000)
INSERT INTO {table} VALUES (gen_random_uuid(), 'item number ' || :n::text, :body, now());
"""
TABLE = "items"

# The same contenders while nothing is sealed: what sealing takes from writers.
SEALING_HELD = {SYNC: "tracked, sync, no sealing", WRITE: "tracked, write, no sealing"}
SEALING_HELD_CLIENTS = 16
# Where not all are measured: those with a target, and whom they are compared with.
ESSENTIAL = (PLAIN, AUDIT, SYNC, WRITE)

FSYNC = Workload("fdatasync", "one fdatasync of a growing file, undisturbed", "us")


def insert_id(clients):
    return f"insert-{clients}"


def workload(clients):
    title = f"single-row INSERT, {clients} client{'s' if clients > 1 else ''}"
    return Workload(insert_id(clients), title, "rows/s", PLAIN)


def prepare(contender):
    """Each run begins with an empty table, so that its size is the same for all and in every round. That a tracked table was
    emptied is recorded before the run."""
    contender.server.session.run(f"TRUNCATE {contender.table(TABLE)}")
    contender.prepare()


def run_once(contender, clients, seconds):
    run = contender.server.pgbench(SCRIPT.format(table=contender.table(TABLE)), clients, seconds,
                                   variables={"body": BODY})
    contender.inserted[TABLE] += run.transactions
    return run


def catch_up_notes(backlog):
    if backlog is None:
        return {}
    return {"pending": backlog.pending, "lines behind": backlog.lag, "seconds to catch up": backlog.seconds}


def measure_one(results, contender, clients, seconds):
    prepare(contender)
    position = contender.server.wal_position()
    run = run_once(contender, clients, seconds)
    wal = contender.server.wal_position() - position
    results.add(workload(clients), contender.name, run.rate, **{"wal bytes/row": wal / run.transactions},
                **catch_up_notes(contender.work_off()))


def measure_held(results, contender, clients, seconds):
    prepare(contender)
    with contender.ledger.sealing_held():
        run = run_once(contender, clients, seconds)
    results.add(workload(clients), SEALING_HELD[contender.name], run.rate, **catch_up_notes(contender.work_off()))


def measure_fdatasync(results, directory):
    """What the disk takes for a line alone, beside which the latency of one client is judged: a low one of many, since
    whatever else the machine does would make the target easier to meet."""
    line = b"x" * 599 + b"\n"
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        times = []
        for _ in range(200):
            os.write(file.fileno(), line)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    results.add(FSYNC, "fdatasync", sorted(times)[len(times) // 10] * 1e6)


def measure(results, contenders, scale, directory, say):
    for contender in contenders:
        contender.create_table(TABLE)
    for number, clients, contender in scale.interleaved(scale.clients, contenders):
        if clients in scale.essential_clients and contender.name not in ESSENTIAL:
            continue
        say(f"single-row INSERT, round {number} of {scale.rounds}, {clients} clients: {contender.name}")
        if contender.name == PLAIN and clients == scale.clients[0]:
            measure_fdatasync(results, directory)
        measure_one(results, contender, clients, scale.seconds)
        if clients == SEALING_HELD_CLIENTS and contender.name in SEALING_HELD:
            measure_held(results, contender, clients, scale.seconds)
    for contender in contenders:
        contender.check(TABLE)
