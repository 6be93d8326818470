"""Single-row INSERT, a transaction each, by more and more clients."""

import os
import statistics
import tempfile
import time

from contenders import AUDIT, BODY, MODES, PLAIN, SYNC, WRITE
from results import Workload

SCRIPT = """\\set n random(1, 1000000000)
INSERT INTO {table} VALUES (gen_random_uuid(), 'item number ' || :n::text, :body, now());
"""
TABLE = "items"

# The same contenders while nothing is sealed: what sealing takes from writers.
SEALING_HELD = {SYNC: "tracked, sync, sealing held back", WRITE: "tracked, write, sealing held back"}
SEALING_HELD_CLIENTS = 16
# At the highest number of clients, only those whose target says so, and whom they are compared with.
MANY_CLIENTS = 64
OF_MANY_CLIENTS = (PLAIN, AUDIT, SYNC, WRITE)

FSYNC = Workload("fdatasync", "one fdatasync of a growing file, alone", "us", more_is_better=False)


def insert_id(clients):
    return f"insert-{clients}"


def workload(clients):
    title = f"single-row INSERT, {clients} client{'s' if clients > 1 else ''}"
    return Workload(insert_id(clients), title, "rows/s", PLAIN)


def run_once(contender, clients, seconds):
    return contender.server.pgbench(SCRIPT.format(table=contender.table(TABLE)), clients, seconds,
                                    variables={"body": BODY})


def measure_one(results, contender, clients, seconds):
    contender.prepare()
    position = contender.server.wal_position()
    run = run_once(contender, clients, seconds)
    wal = contender.server.wal_position() - position
    backlog = contender.work_off()
    notes = {"wal bytes/row": wal / run.transactions}
    if backlog is not None:
        notes |= {"pending at the end": backlog.pending, "lines behind": backlog.lag, "seconds to catch up": backlog.seconds}
    results.add(workload(clients), contender.name, run.rate, **notes)


def measure_held(results, contender, clients, seconds):
    contender.prepare()
    with contender.ledger.sealing_held():
        run = run_once(contender, clients, seconds)
    backlog = contender.work_off()
    results.add(workload(clients), SEALING_HELD[contender.name], run.rate,
                **{"pending at the end": backlog.pending, "seconds to catch up": backlog.seconds})


def measure_fdatasync(results, directory):
    """What the disk takes for a line alone, beside which the latency of one client is judged."""
    line = b"x" * 599 + b"\n"
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        times = []
        for _ in range(200):
            os.write(file.fileno(), line)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    results.add(FSYNC, "fdatasync", statistics.median(times) * 1e6)


def measure(results, contenders, scale, directory, say):
    for contender in contenders:
        contender.create_table(TABLE)
    for number in range(scale.rounds):
        measure_fdatasync(results, directory)
        for clients in scale.clients:
            say(f"single-row INSERT, round {number + 1} of {scale.rounds}, {clients} clients")
            # Each round begins with another one, so that none always follows the same.
            start = number % len(contenders)
            for contender in contenders[start:] + contenders[:start]:
                if clients == MANY_CLIENTS and contender.name not in OF_MANY_CLIENTS:
                    continue
                measure_one(results, contender, clients, scale.seconds)
                if clients == SEALING_HELD_CLIENTS and contender.name in SEALING_HELD:
                    measure_held(results, contender, clients, scale.seconds)
    for contender in contenders:
        contender.check(TABLE)
