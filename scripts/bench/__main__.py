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
from contenders import REFERENCES, all_contenders, other_servers
from ledger import Ledger
from results import Results
from server import Failed, Server


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
        growth.measure(results, os.environ["PGHOST"], os.environ["PGPORT"], scale, say)
    else:
        compare(scale, results, server, directory)


def compare(scale, results, server, directory):
    ledger = Ledger(server)
    without, pgaudit = other_servers()
    make_wal_segments(scale, without)
    contenders = all_contenders(server, ledger, without, pgaudit, say)
    measures = {
        "insert": lambda: inserts.measure(results, contenders, scale, os.environ["BENCH_DIRECTORY"], say),
        "update": lambda: updates.measure(results, contenders, scale, say),
        "bulk": lambda: bulk.measure(results, contenders, scale, directory, say),
        "load": lambda: load.measure(results, contenders, scale, say),
        "record": lambda: recording.measure(results, contenders, scale, say),
        "sealing": lambda: sealing.measure(results, contenders, scale, say),
        "storage": lambda: storage.measure(results, contenders, scale, say),
        "hash": lambda: hashing.measure(results, server, scale, say),
        "waits": lambda: waits.measure(results, contenders, scale, say),
        "verify": lambda: verification.measure(results, os.environ["PGHOST"], os.environ["PGPORT"], scale, say),
    }
    for kind in scales.KINDS:
        if kind in scale.kinds:
            started = time.monotonic()
            measures[kind]()
            say(f"{kind}: {time.monotonic() - started:.0f} seconds")
    ledger.verify()


def main():
    scale = scales.from_environment()
    directory = os.environ["BENCH_RESULTS"]
    os.makedirs(directory, exist_ok=True)
    server = Server.create(os.environ["PGHOST"], os.environ["PGPORT"], "bench")
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
