"""INSERT ... SELECT and COPY of many rows in one statement, into a table that is empty before."""

import os
import time

from contenders import COLUMNS, PLAIN, ROW
from results import Workload
from run import measure_run

TABLE = "bulk"
SOURCE = "source"


def workloads(rows):
    return (Workload("insert-select", f"INSERT ... SELECT of {rows:,} rows", "rows/s", PLAIN),
            Workload("copy", f"COPY of {rows:,} rows", "rows/s", PLAIN))


def make_source(server, rows, path):
    session = server.session
    if session.value(f"SELECT to_regclass('{SOURCE}')"):
        return
    session.run(f"CREATE TABLE {SOURCE} {COLUMNS}")
    session.run(f"INSERT INTO {SOURCE} SELECT {ROW} FROM generate_series(1, {rows}) AS n")
    session.run(f"VACUUM ANALYZE {SOURCE}")
    session.command(f"\\copy {SOURCE} TO '{path}'")


def measure_one(results, workload, contender, rows, run):
    session = contender.server.session

    def write():
        started = time.perf_counter()
        run(session, contender.table(TABLE))
        seconds = time.perf_counter() - started
        contender.written[TABLE] += rows
        return rows, seconds

    session.run(f"TRUNCATE {contender.table(TABLE)}")
    contender.prepare()
    measure_run(results, workload, contender.name, contender, write)


def measure(results, contenders, scale, directory, say):
    path = os.path.join(directory, "rows.copy")
    for contender in contenders:
        contender.create_table(TABLE)
        make_source(contender.server, scale.bulk_rows, path)
    insert_select, copy = workloads(scale.bulk_rows)
    for number, workload, contender in scale.interleaved((insert_select, copy), contenders):
        say(f"{workload.title}, round {number} of {scale.rounds}: {contender.name}")
        if workload is insert_select:
            def run(session, table):
                session.run(f"INSERT INTO {table} SELECT * FROM {SOURCE}")
        else:
            def run(session, table):
                session.command(f"\\copy {table} FROM '{path}'")
        measure_one(results, workload, contender, scale.bulk_rows, run)
    for contender in contenders:
        contender.check(TABLE)
    os.unlink(path)
