"""The ledger of a database as the benchmark needs it: its mode, its backlog, and sealing held back."""

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass

from server import Failed, wait_until


@dataclass(frozen=True)
class State:
    pending: int
    lag: int
    # The file is there, or none is wanted; and it has the line of the last block.
    is_there: bool = False
    has_blocks: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Backlog:
    """What was still to be done when the writers ended, and how long that took."""

    pending: int
    lag: int
    seconds: float


class Ledger:
    def __init__(self, server):
        self.server = server
        server.session.run("CREATE EXTENSION IF NOT EXISTS pg_notary")
        self.block_size = int(server.session.value("SHOW ledger.block_size"))
        self.wait_until_quiet()

    def query(self, statement):
        return self.server.session.value(statement)

    def set_mode(self, mode):
        """Switches the mirror's mode, and waits until the file has what it then must have and all is sealed."""
        if self.query("SHOW ledger.mirror_mode") != mode:
            self.server.session.run(f"ALTER SYSTEM SET ledger.mirror_mode = '{mode}'")
            self.server.session.run("SELECT pg_reload_conf()")
            wait_until(f"mode {mode}", lambda: self.query("SHOW ledger.mirror_mode") == mode)
        self.wait_until_quiet()

    def wait_until_quiet(self):
        """Until the file is there and has all entries and blocks, and what is pending fills no block."""
        try:
            wait_until("the ledger to be quiet", self.is_quiet)
        except Failed as failure:
            raise Failed(f"{failure}\n{self.describe()}") from None

    def describe(self):
        """All that tells why it is not quiet."""
        rows = [self.query(f"SELECT to_jsonb(v) FROM {view} AS v") for view in
                ("ledger.mirror_status", "ledger.workers", "ledger.chain_stats")]
        rows += self.server.session.run("SELECT to_jsonb(a) FROM pg_stat_activity AS a WHERE backend_type LIKE 'pg_notary%'")
        return "\n".join(rows)

    def is_quiet(self):
        state = self.state()
        if state.problem:
            raise Failed(f"the mirror has a problem: {state.problem}")
        return self.is_sealed(state) and state.lag == 0

    def is_sealed(self, state):
        """All that fills a block is in one, and the file has its line."""
        return state.pending < self.block_size and state.is_there and state.has_blocks

    def verify(self):
        """All that was recorded while measuring must be there, in the database and in the file."""
        self.set_mode("sync")
        verdict = json.loads(self.query("SELECT ledger.verify_chain()"))
        if not (verdict["overall_valid"] and verdict["file_chain"]["valid"]):
            raise Failed(f"the ledger that was measured does not verify: {verdict}")

    def state(self):
        row = self.query("""
            SELECT w.pending, COALESCE(m.lag_entries, 0), m.state = CASE m.mode WHEN 'off' THEN 'off' ELSE 'attached' END,
                   m.mode = 'off' OR COALESCE(m.last_block, 0) >= (SELECT COALESCE(max(block_number), 0) FROM ledger.blocks),
                   COALESCE(m.problem, '')
            FROM ledger.mirror_status AS m, ledger.workers AS w WHERE w.database = current_database()""")
        if not row:
            return State(0, 0)
        pending, lag, is_there, has_blocks, problem = row.split("|", 4)
        return State(int(pending), int(lag), is_there == "t", has_blocks == "t", problem)

    def work_off(self):
        """The backlog, once it has been worked off."""
        state = self.state()
        started = time.perf_counter()
        self.wait_until_quiet()
        return Backlog(state.pending, state.lag, time.perf_counter() - started)

    def seal_all(self):
        """Also what fills no block."""
        self.query("SELECT count(*) FROM ledger.commit_block()")
        wait_until("the last block in the file", lambda: self.query("""
            SELECT (m.mode = 'off' OR m.last_block = c.block_count) AND c.pending_count = 0
            FROM ledger.mirror_status AS m, ledger.chain_stats AS c""") == "t")

    @contextmanager
    def sealing_held(self, until_crash=False):
        """Nothing is sealed meanwhile: a transaction that has called commit_block() is the only sealer until it ends, or until
        the server does."""
        holder = self.server.open_session()
        holder.run("BEGIN")
        holder.run("SELECT count(*) FROM ledger.commit_block()")
        try:
            yield
            if not until_crash:
                holder.run("COMMIT")
        finally:
            holder.close()

    def worker_pid(self):
        return int(self.query("SELECT pid FROM ledger.workers WHERE database = current_database()"))

    def sealer_pids(self):
        """Of the processes that seal, write the file and write the WAL meanwhile: this database's worker, and the cluster's
        writer of the file and its WAL writer."""
        writers = self.server.session.run(
            "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('pg_notary writer', 'walwriter')")
        return [self.worker_pid(), *map(int, writers)]

    def shrink_pending(self):
        """The table of what is pending as it is in a new ledger, whatever has been in it."""
        self.server.session.run("VACUUM FULL ledger.entries_pending")

    def mirror_path(self):
        return self.query("SELECT path FROM ledger.mirror_status")
