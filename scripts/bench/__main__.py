"""The benchmark. scripts/bench.sh has built everything and started the clusters."""

import os
import platform
import sys
import time

import export
import inserts
import scale as scales
import table
import targets
from contenders import all_contenders, pgaudit_server
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
        "runs": f"{scale.rounds} rounds, {scale.seconds} seconds each" + (", QUICK" if scale.is_quick else ""),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def measure(scale, results, server, directory):
    pgaudit = pgaudit_server(Server.create)
    contenders = all_contenders(server, Ledger(server), pgaudit)
    if "insert" in scale.kinds:
        inserts.measure(results, contenders, scale, directory, say)


def main():
    scale = scales.from_environment()
    directory = os.environ["BENCH_RESULTS"]
    os.makedirs(directory, exist_ok=True)
    server = Server.create(os.environ["PGHOST"], os.environ["PGPORT"], "bench")
    results = Results()
    measure(scale, results, server, directory)
    verdicts = targets.judge(results)
    facts = about(server, scale)
    text = "\n".join(table.lines(results, verdicts, facts))
    print(text)
    with open(os.path.join(directory, "bench.txt"), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    export.write(os.path.join(directory, "bench.json"), results, verdicts, facts)
    say(f"results: {directory}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
