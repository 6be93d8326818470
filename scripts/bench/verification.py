"""verify_chain, verify_table and the offline verifier on ledgers of their own."""

import json
import os
import subprocess
import threading
import time

from contenders import COLUMNS, ROW
from ledger import Ledger
from results import Workload
from server import Failed, Server

BATCH = 200_000
TABLE = "verified_table"
CHAIN, ROWS, CLI = "verify_chain", "verify_table", "pg_notary verify"


def workload(entries):
    return Workload(f"verify-{entries}", f"verification of {entries:,} entries", "entries/s")


class MemoryWatch:
    """The most private memory that a process has while this runs, in MB."""

    def __init__(self, pid):
        self.status = f"/proc/{pid}/status"
        self.most = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.done.wait(0.02):
            with open(self.status, encoding="utf-8") as file:
                # One that has ended has none.
                line = next((line for line in file if line.startswith("RssAnon:")), "RssAnon: 0 kB")
            self.most = max(self.most, int(line.split()[1]) / 1024)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def fill(server, ledger, first, last, row=ROW):
    """Rows of a tracked table, recorded in transactions of many, and sealed."""
    for start in range(first, last + 1, BATCH):
        server.session.run(f"INSERT INTO {TABLE} SELECT {row} FROM generate_series({start}, {min(start + BATCH - 1, last)}) AS n")
        ledger.wait_until_quiet()
    ledger.seal_all()


def make_ledger(server, mode="sync"):
    ledger = Ledger(server)
    ledger.set_mode(mode)
    server.session.run(f"CREATE TABLE {TABLE} {COLUMNS}")
    server.session.run(f"SELECT ledger.track('{TABLE}')")
    return ledger


def timed(work):
    started = time.perf_counter()
    outcome = work()
    return outcome, time.perf_counter() - started


def verify_chain(results, kind, server, entries):
    session = server.session
    with MemoryWatch(session.value("SELECT pg_backend_pid()")) as memory:
        verdict, seconds = timed(lambda: json.loads(session.value("SELECT ledger.verify_chain()")))
    if not (verdict["overall_valid"] and verdict["file_chain"]["valid"]):
        raise Failed(f"verify_chain: {verdict}")
    checked = verdict["postgres_chain"]["entry_count"]
    if checked < entries:
        raise Failed(f"verify_chain has read {checked} entries of {entries}")
    results.add(kind, CHAIN, checked / seconds, **{"seconds": seconds, "MB of memory": memory.most})


def verify_table(results, kind, server, entries):
    session = server.session
    with MemoryWatch(session.value("SELECT pg_backend_pid()")) as memory:
        problems, seconds = timed(lambda: session.value(f"SELECT count(*) FROM ledger.verify_table('{TABLE}')"))
    if problems != "0":
        raise Failed(f"verify_table: {problems} problems")
    results.add(kind, ROWS, entries / seconds, **{"seconds": seconds, "MB of memory": memory.most})


def run_program(command):
    """What it prints, its exit status, and its memory. The kernel's own record of that would begin with what this program has."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        # Its place in /proc stays until it is waited for, which is after this.
        with MemoryWatch(program.pid) as memory:
            output = program.stdout.read()
    return output, program.returncode, memory.most


def count_lines(path):
    with open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def verify_offline(results, kind, path, entries):
    """Signatures included, as in a server."""
    lines = count_lines(path)
    (output, status, memory), seconds = timed(lambda: run_program(
        [os.environ["PG_NOTARY_CLI"], "verify", "--json", "--secret-file", os.environ["BENCH_SECRET_FILE"], path]))
    if status != 0:
        raise Failed(f"pg_notary verify: {output}")
    verdict = json.loads(output)
    if verdict["entry_count"] < entries or not verdict["signatures_checked"]:
        raise Failed(f"pg_notary verify has not checked {entries} entries with their signatures: {output}")
    results.add(kind, CLI, verdict["entry_count"] / seconds, **{
        "seconds": seconds, "lines/s": lines / seconds, "MB/s": os.path.getsize(path) / seconds / 1e6,
        "MB of memory": memory})


def measure(results, host, port, scale, say):
    for entries in scale.ledgers:
        server = Server.create(host, port, f"ledger_{entries}")
        say(f"a ledger of {entries:,} entries")
        ledger = make_ledger(server)
        fill(server, ledger, 1, entries)
        server.session.run(f"VACUUM ANALYZE {TABLE}")
        # What is still to be written is not written while this is read.
        server.checkpoint()
        kind, path = workload(entries), ledger.mirror_path()
        for number in range(scale.rounds):
            say(f"{kind.title}, round {number + 1} of {scale.rounds}")
            verify_chain(results, kind, server, entries)
            verify_table(results, kind, server, entries)
            verify_offline(results, kind, path, entries)
        server.drop()
        os.unlink(path)
