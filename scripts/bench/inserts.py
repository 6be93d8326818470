"""Single-row INSERT, a transaction each, by more and more clients."""

import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass

from contenders import AUDIT, BODY, PGAUDIT, PLAIN, SYNC, WRITE, Contender
from results import Workload
from run import measure_run

SCRIPT = """\\set n random(1, 1000000000)
INSERT INTO {table} VALUES (gen_random_uuid(), 'item number ' || :n::text, :body, now());
"""
TABLE = "items"

# The same contenders while nothing is sealed: what sealing takes from writers.
SEALING_HELD = {SYNC: "tracked, sync, no sealing", WRITE: "tracked, write, no sealing"}
SEALING_HELD_CLIENTS = 16
# Where not all are measured: those with a target, and whom they are compared with.
ESSENTIAL = (PLAIN, AUDIT, SYNC, WRITE)

FSYNC = Workload("fdatasync", "one fdatasync of a growing file", "us")
ALONE = "alone, lowest tenth"
IN_TURNS = "in turns with another file's, median"


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
    contender.written[TABLE] += run.transactions
    return run


@dataclass(frozen=True)
class Run:
    """What takes its turn: a contender, or one while nothing is sealed."""

    contender: Contender
    is_held: bool = False

    @property
    def name(self):
        return SEALING_HELD[self.contender.name] if self.is_held else self.contender.name

    def takes_part(self, scale, clients):
        if self.is_held:
            return clients == SEALING_HELD_CLIENTS
        return clients not in scale.essential_clients or self.name in ESSENTIAL

    def circumstances(self):
        return self.contender.ledger.sealing_held() if self.is_held else nullcontext()


def measure_one(results, run, clients, seconds):
    def write():
        with run.circumstances():
            done = run_once(run.contender, clients, seconds)
        return done.transactions, done.seconds

    prepare(run.contender)
    measure_run(results, workload(clients), run.name, run.contender, write)


def sync_seconds(file):
    started = time.perf_counter()
    os.fdatasync(file.fileno())
    return time.perf_counter() - started


def measure_fdatasync(results, directory):
    """What the mirror's disk takes for a line alone, beside which the latency of one client is judged: a low one of many,
    since whatever else the machine does would make the target easier to meet. And what it takes as a commit has it, in turns with
    a page of a file like the WAL, which does not grow."""
    line, page = b"x" * 599 + b"\n", b"x" * 8192
    with tempfile.NamedTemporaryFile(dir=directory) as file, tempfile.NamedTemporaryFile(dir=directory) as wal:
        os.write(wal.fileno(), page)
        os.fsync(wal.fileno())
        alone, in_turns = [], []
        for _ in range(200):
            os.write(file.fileno(), line)
            alone.append(sync_seconds(file))
        for _ in range(200):
            os.write(file.fileno(), line)
            in_turns.append(sync_seconds(file))
            os.pwrite(wal.fileno(), page, 0)
            sync_seconds(wal)
    results.add(FSYNC, ALONE, sorted(alone)[len(alone) // 10] * 1e6)
    results.add(FSYNC, IN_TURNS, statistics.median(in_turns) * 1e6)


def measure(results, contenders, scale, directory, say):
    for contender in contenders:
        contender.create_table(TABLE)
    runs = [Run(contender) for contender in contenders]
    runs += [Run(contender, is_held=True) for contender in contenders if contender.name in SEALING_HELD]
    for number, clients, run in scale.interleaved(scale.clients, runs, lambda clients, run: run.takes_part(scale, clients)):
        say(f"single-row INSERT, round {number} of {scale.rounds}, {clients} clients: {run.name}")
        if run.name == PLAIN and clients == scale.clients[0]:
            measure_fdatasync(results, directory)
        measure_one(results, run, clients, scale.seconds)
    for contender in contenders:
        contender.check(TABLE)
        if contender.name == PGAUDIT:
            contender.check_log(TABLE)
