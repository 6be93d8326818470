"""A server, and what speaks to it: psql and pgbench."""

import os
import re
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass

# Seconds. What is waited for takes much less.
DEADLINE = 300


class Failed(Exception):
    """What ends the benchmark with a message."""


def wait_until(what, condition, interval=0.02, deadline=DEADLINE):
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited {deadline} seconds in vain for {what}")
        time.sleep(interval)


class Session:
    """A connection that stays open: a psql that reads its commands from a pipe."""

    END = "-- end of answer --"

    def __init__(self, environment):
        self.errors = tempfile.TemporaryFile("w+")
        self.psql = subprocess.Popen(
            ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"], env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.run("SET client_min_messages = warning")

    def run(self, statement):
        """The answer's lines, columns separated by |."""
        try:
            self.psql.stdin.write(f"{statement.strip().rstrip(';')};\n\\echo {self.END}\n")
            self.psql.stdin.flush()
        except BrokenPipeError:
            pass
        lines = []
        for line in self.psql.stdout:
            if line.rstrip("\n") == self.END:
                return lines
            lines.append(line.rstrip("\n"))
        self.errors.seek(0)
        raise Failed(f"psql ended: {self.errors.read().strip()}\nin: {statement.strip()}")

    def command(self, backslash_command):
        """Runs one of psql's own commands."""
        self.run(f"SELECT WHERE false;\n{backslash_command}\nSELECT WHERE false")

    def value(self, statement):
        lines = self.run(statement)
        return lines[0] if lines else ""

    def number(self, statement):
        return float(self.value(statement) or 0)

    def seconds(self, statement):
        """How long the statement takes."""
        started = time.perf_counter()
        self.run(statement)
        return time.perf_counter() - started

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()
        self.psql.stdout.close()
        self.errors.close()


@dataclass(frozen=True)
class PgbenchRun:
    transactions: int
    seconds: float

    @property
    def rate(self):
        return self.transactions / self.seconds


class Server:
    """One database of one cluster."""

    def __init__(self, host, port, database):
        self.database = database
        self.environment = {**os.environ, "PGHOST": host, "PGPORT": port, "PGDATABASE": database,
                            "PGCLIENTENCODING": "UTF8"}
        self._session = None
        self.last_checkpoint, self.wal_then = "", 0

    @classmethod
    def create(cls, host, port, database):
        maintenance = cls(host, port, "postgres")
        maintenance.session.run(f"CREATE DATABASE {database}")
        maintenance.close()
        return cls(host, port, database)

    @property
    def session(self):
        """The session for whatever needs none of its own."""
        if self._session is None:
            self._session = Session(self.environment)
        return self._session

    def open_session(self):
        return Session(self.environment)

    def close(self):
        if self._session is not None:
            self._session.close()
            self._session = None

    def drop(self):
        self.close()
        maintenance = Server(self.environment["PGHOST"], self.environment["PGPORT"], "postgres")
        maintenance.session.run(f"DROP DATABASE {self.database} WITH (FORCE)")
        maintenance.close()

    def make_wal_segments(self, number):
        """For a new cluster: WAL segments that will be used again and again, as those of a server that has run for a while.
        Without them most would be made during the runs, written as zeros and synced, at the cost of who writes more WAL."""
        self.session.run(f"""DO $$ BEGIN
            FOR i IN 1..{number} LOOP
                PERFORM pg_logical_emit_message(false, 'segment', 'to be filled');
                PERFORM pg_switch_wal();
            END LOOP; END $$""")
        self.checkpoint()

    def touch_buffers(self):
        """Uses all of shared_buffers once, as a server that has run for a while has. The first use of its memory costs
        time: without this, it would be the time of whoever comes to new pages, and not of those whose tables are emptied
        before each run and find the pages of the last."""
        self.session.run("CREATE UNLOGGED TABLE touched (page text)")
        self.session.run("ALTER TABLE touched ALTER page SET STORAGE PLAIN")
        self.session.run("""INSERT INTO touched SELECT repeat('x', 8000)
            FROM pg_settings, generate_series(1, setting::bigint) WHERE name = 'shared_buffers'""")
        self.session.run("DROP TABLE touched")

    def checkpoint(self):
        self.session.run("CHECKPOINT")
        self.last_checkpoint = self.redo_position()
        self.wal_then = self.wal_position()

    def redo_position(self):
        return self.session.value("SELECT redo_lsn FROM pg_control_checkpoint()")

    def may_have_begun_checkpoint(self):
        """Another one, since the last that was asked for. It ends long after it has begun, so it is known by the WAL that
        makes it begin: with the default of checkpoint_completion_target, a little more than half of max_wal_size."""
        most = int(self.session.value("SELECT setting FROM pg_settings WHERE name = 'max_wal_size'")) << 20
        return self.redo_position() != self.last_checkpoint or self.wal_position() - self.wal_then > most // 2

    def wal_position(self):
        return int(self.session.value("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))

    def pgbench(self, script, clients, seconds=None, transactions=None, variables=None):
        """Runs a script, in prepared statements, for so long or so often by each client."""
        command = ["pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-f", "-"]
        command += ["-T", str(seconds)] if transactions is None else ["-t", str(transactions)]
        for name, value in (variables or {}).items():
            command += ["-D", f"{name}={value}"]
        # The script is read from a file: pgbench takes "-" for a file of that name.
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            command[command.index("-f") + 1] = file.name
            run = subprocess.Popen(command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if clients == 1:
                self.share_processor(run)
            output, errors = run.communicate()
        rate = re.search(r"tps = ([\d.]+)", output)
        done = re.search(r"actually processed: (\d+)", output)
        if run.returncode != 0 or not rate or not done or "aborted" in errors:
            raise Failed(f"pgbench failed:\n{output}{errors}")
        return PgbenchRun(int(done[1]), int(done[1]) / float(rate[1]))

    def share_processor(self, client):
        """Keeps a single client and its backend on the same processor. Otherwise the system puts them on one or on two, as
        chance has it, and often for the whole run. To wake a process on a processor that rests takes a virtual machine so
        long that the plain table then has half as many transactions."""
        processor = {max(os.sched_getaffinity(0))}
        # pgbench first opens a connection through which it asks nothing.
        query = f"""SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' AND datname = '{self.database}'
            AND query <> ''"""
        wait_until("the backend of pgbench", lambda: self.session.value(query) or client.poll() is not None)
        for process in (client.pid, *map(int, self.session.run(query))):
            # It may have ended.
            with suppress(ProcessLookupError):
                os.sched_setaffinity(process, processor)
