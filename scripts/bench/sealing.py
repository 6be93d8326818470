"""Sealing a backlog of entries about rows, which were recorded while sealing was held back."""

import os
import time

from contenders import ROW, SYNC, OFF
from results import Workload

TABLE = "backlog"


def workload(entries):
    return Workload("sealing", f"sealing a backlog of {entries:,} entries", "entries/s")


def cpu_seconds(pid):
    """What the process has used so far."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_backlog(contender, entries):
    session = contender.server.session
    session.run(f"TRUNCATE {contender.table(TABLE)}")
    contender.prepare()
    with contender.ledger.sealing_held():
        session.run(f"INSERT INTO {contender.table(TABLE)} SELECT {ROW} FROM generate_series(1, {entries}) AS n")
        return contender.ledger.state()[0]


def measure_one(results, contender, entries):
    worker = contender.ledger.worker_pid()
    pending = make_backlog(contender, entries)
    before, started = cpu_seconds(worker), time.perf_counter()
    contender.ledger.wait_until_quiet()
    seconds, cpu = time.perf_counter() - started, cpu_seconds(worker) - before
    results.add(workload(entries), contender.name, pending / seconds,
                **{"entries per CPU second of the worker": pending / max(cpu, 0.01), "seconds": seconds})


def measure(results, contenders, scale, say):
    compared = [contender for contender in contenders if contender.name in (SYNC, OFF)]
    for contender in compared:
        contender.create_table(TABLE)
    for number, _, contender in scale.interleaved((None,), compared):
        say(f"sealing a backlog, round {number} of {scale.rounds}: {contender.name}")
        measure_one(results, contender, scale.backlog)
    for contender in compared:
        contender.server.session.run(f"TRUNCATE {contender.table(TABLE)}")
