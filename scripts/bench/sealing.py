"""Sealing a backlog of entries about rows, which were recorded while sealing was held back."""

import os
import time
from dataclasses import dataclass

from contenders import ROW, SYNC, OFF
from results import Workload

TABLE = "backlog"
# What one core would reach that did all of the work, and nothing else.
PER_CPU_SECOND = "entries per CPU second"


def workload(entries):
    return Workload("sealing", f"sealing a backlog of {entries:,} entries", "entries/s")


@dataclass(frozen=True)
class Sealed:
    entries: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self):
        return self.entries / self.seconds


def cpu_seconds(pids):
    """What the processes have used so far."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def seal_backlog(contender, entries):
    """Time runs from before sealing is set free until the file has the blocks."""
    session, ledger = contender.server.session, contender.ledger
    session.run(f"TRUNCATE {contender.table(TABLE)}")
    ledger.shrink_pending()
    contender.prepare()
    with ledger.sealing_held():
        session.run(f"INSERT INTO {contender.table(TABLE)} SELECT {ROW} FROM generate_series(1, {entries}) AS n")
        pending, pids = ledger.state().pending, ledger.sealer_pids()
        before, started = cpu_seconds(pids), time.perf_counter()
    ledger.wait_until_quiet()
    sealed = Sealed(pending, time.perf_counter() - started, cpu_seconds(pids) - before)
    contender.refuse_checkpoint()
    return sealed


def measure_one(results, contender, entries):
    sealed = seal_backlog(contender, entries)
    results.add(workload(entries), contender.name, sealed.rate,
                **{PER_CPU_SECOND: sealed.entries / max(sealed.cpu_seconds, 0.01),
                   "seconds": sealed.seconds})


def measure(results, contenders, scale, say):
    compared = [contender for contender in contenders if contender.name in (SYNC, OFF)]
    for contender in compared:
        contender.create_table(TABLE)
    for number, _, contender in scale.interleaved((None,), compared):
        say(f"sealing a backlog, round {number} of {scale.rounds}: {contender.name}")
        measure_one(results, contender, scale.backlog)
    for contender in compared:
        contender.server.session.run(f"TRUNCATE {contender.table(TABLE)}")
