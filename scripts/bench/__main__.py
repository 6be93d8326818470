"""The benchmark. scripts/bench.sh has built everything and started the clusters."""

import os
import platform
import sys
import time
from contextlib import suppress

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


def memory():
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB of memory"


def runs(scale):
    parts = [f"{scale.rounds} rounds", f"{scale.seconds} seconds each"]
    parts += ["QUICK"] if scale.is_quick else []
    parts += [f"mode {scale.mode}"] if scale.sizes else []
    parts += [f"only {' '.join(scale.kinds)}"] if not scale.sizes and set(scale.kinds) != set(scales.KINDS) else []
    return ", ".join(parts)


def missing(server):
    """What is not installed, and so not compared with."""
    return [name for name in ("pgcrypto", "pgaudit")
            if not server.session.value(f"SELECT 1 FROM pg_available_extensions WHERE name = '{name}'")]


def about(server, scale):
    facts = {
        "pg_notary": os.environ["BENCH_COMMIT"],
        "server": "PostgreSQL " + server.session.value("SHOW server_version"),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {processor()}, {memory()}, Linux {platform.release()}",
        "runs": runs(scale),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    left_out = missing(server)
    if left_out:
        facts["left out"] = f"{', '.join(left_out)}: not installed"
    return facts


def warm_up(scale, server):
    """What a server has done that has run for a while."""
    if not scale.is_quick:
        say("touching all shared buffers")
        server.touch_buffers()
    say(f"making {scale.wal_segments} WAL segments")
    server.make_wal_segments(scale.wal_segments)


def measure(scale, results, server, directory):
    warm_up(scale, server)
    if scale.sizes:
        growth.measure(results, *CLUSTER, scale, say)
    else:
        compare(scale, results, directory)


def compare(scale, results, directory):
    warm_up(scale, Server(*OTHER_CLUSTER, "postgres"))
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
    except Exception as failure:
        # What was measured before is kept, but must not look like all of it.
        facts["incomplete"] = "ended by: " + (str(failure).splitlines() or [repr(failure)])[0]
        if results.workloads:
            report(results, scale, facts, directory)
        raise
    report(results, scale, facts, directory)


def report_name(scale):
    return "growth" if scale.sizes else "bench"


def drawing(results, scale, facts):
    """Empty where there is no chart of what was measured."""
    return "" if "incomplete" in facts else charts.draw(results, scale, facts)


def write(directory, name, content):
    """Without content there is no such file afterwards: one of an earlier run would be taken for one of this."""
    path = os.path.join(directory, name)
    with suppress(FileNotFoundError):
        os.unlink(path)
    if content:
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)


def report(results, scale, facts, directory):
    verdicts, unmeasured = targets.judge(results, scale)
    text = "\n".join(table.lines(results, verdicts, unmeasured, facts))
    print(text, flush=True)
    name = report_name(scale)
    write(directory, f"{name}.txt", text + "\n")
    write(directory, f"{name}.json", export.text(results, verdicts, unmeasured, facts))
    write(directory, f"{name}.svg", drawing(results, scale, facts))
    say(f"results: {directory}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
