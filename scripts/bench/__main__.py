"""The benchmark. scripts/bench.sh has built everything and started the clusters."""

import os
import platform
import sys
import time

import bulk
import charts
import export
import growth
import hashing
import inserts
import load
import recording
import scale as scales
import sealing
import storage
import table
import targets
import updates
import verification
import waits
from contenders import OTHER_CLUSTER, REFERENCES, all_contenders, other_servers
from ledger import Ledger
from results import Results
from server import Failed, Server

CLUSTER = os.environ["PGHOST"], os.environ["PGPORT"]


def say(message):
    print(f"== {message}", file=sys.stderr, flush=True)


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def about(server, scale):
    return {
        "server": "PostgreSQL " + server.session.value("SHOW server_version"),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {processor()}, Linux {platform.release()}",
        "runs": f"{scale.rounds} rounds, {scale.seconds} seconds each" + (", QUICK" if scale.is_quick else "")
                + (f", mode {scale.mode}" if scale.sizes else ""),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def make_wal_segments(scale, server):
    say(f"making {scale.wal_segments} WAL segments")
    server.make_wal_segments(scale.wal_segments)


def measure(scale, results, server, directory):
    make_wal_segments(scale, server)
    if scale.sizes:
        growth.measure(results, *CLUSTER, scale, say)
    else:
        compare(scale, results, directory)


def compare(scale, results, directory):
    make_wal_segments(scale, Server(*OTHER_CLUSTER, "postgres"))
    measures = {
        "insert": lambda contenders: inserts.measure(results, contenders, scale, os.environ["BENCH_DIRECTORY"], say),
        "update": lambda contenders: updates.measure(results, contenders, scale, say),
        "bulk": lambda contenders: bulk.measure(results, contenders, scale, directory, say),
        "load": lambda contenders: load.measure(results, contenders, scale, say),
        "record": lambda contenders: recording.measure(results, contenders, scale, say),
        "sealing": lambda contenders: sealing.measure(results, contenders, scale, say),
        "storage": lambda contenders: storage.measure(results, contenders, scale, say),
        "hash": lambda contenders: hashing.measure(results, contenders[0].server, scale, say),
        "waits": lambda contenders: waits.measure(results, contenders, scale, say),
    }
    for kind in scales.KINDS:
        if kind in scale.kinds:
            started = time.monotonic()
            if kind == "verify":
                # On ledgers of its own.
                verification.measure(results, *CLUSTER, scale, say)
            else:
                measure_contenders(measures[kind])
            say(f"{kind}: {time.monotonic() - started:.0f} seconds")


def measure_contenders(measure):
    """In databases that are dropped afterwards: all that is recorded for all kinds of work together would fill a disk."""
    server = Server.create(*CLUSTER, "bench_work")
    ledger = Ledger(server)
    others = other_servers()
    measure(all_contenders(server, ledger, *others, say))
    ledger.verify()
    path = ledger.mirror_path()
    for each in (server, *others):
        if each is not None:
            each.drop()
    os.unlink(path)


def main():
    scale = scales.from_environment()
    directory = os.environ["BENCH_RESULTS"]
    os.makedirs(directory, exist_ok=True)
    server = Server(*CLUSTER, "postgres")
    results = Results({**REFERENCES, **growth.references(scale.sizes)})
    facts = about(server, scale)
    try:
        measure(scale, results, server, directory)
    except Failed:
        # What was measured before is kept.
        report(results, scale, facts, directory)
        raise
    report(results, scale, facts, directory)
    drawing = charts.draw(results, scale, facts)
    if drawing:
        write(directory, f"{report_name(scale)}.svg", drawing)


def report_name(scale):
    return "growth" if scale.sizes else "bench"


def write(directory, name, content):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        file.write(content)


def report(results, scale, facts, directory):
    verdicts, unmeasured = targets.judge(results, scale)
    if scale.sizes or set(scale.kinds) == set(scales.KINDS):
        for target in unmeasured:
            say(f"not measured: {target}")
    text = "\n".join(table.lines(results, verdicts, facts))
    print(text, flush=True)
    write(directory, f"{report_name(scale)}.txt", text + "\n")
    write(directory, f"{report_name(scale)}.json", export.text(results, verdicts, facts))
    say(f"results: {directory}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
