"""Who is compared: the same table, recorded in different ways."""

import os
from collections import Counter
from dataclasses import dataclass, field

from server import Failed, Server, wait_until

PLAIN = "plain table"
WITHOUT = "plain table, without pg_notary"
AUDIT = "JSONB audit trigger"
CHAIN = "pgcrypto hash chain"
PGAUDIT = "pgaudit"
SYNC = "tracked, sync"
WRITE = "tracked, write"
ASYNC = "tracked, async"
OFF = "tracked, off"
MODES = {SYNC: "sync", WRITE: "write", ASYNC: "async", OFF: "off"}
# The order of the tables and plots.
NAMES = (PLAIN, WITHOUT, AUDIT, CHAIN, PGAUDIT, SYNC, WRITE, ASYNC, OFF)
OTHER_CLUSTER = os.environ["BENCH_OTHER_HOST"], os.environ["BENCH_OTHER_PORT"]
# With whom a contender is compared, if not with the plain table that all others are: the one in its own cluster.
REFERENCES = {PGAUDIT: WITHOUT}

COLUMNS = "(id uuid PRIMARY KEY, name varchar(100) NOT NULL, body jsonb NOT NULL, seen_at timestamptz NOT NULL)"
# About 150 bytes of jsonb.
BODY = ('{"customer": "Ada Lovelace", "city": "Bergen", "items": [3, 14, 15], "total": 1250.5, "currency": "NOK", '
        '"paid": true, "reference": "2026-0142"}')
OTHER_BODY = BODY.replace("Bergen", "Tromso")
# The n-th row of a table that is filled in bulk.
ID = "md5({n}::text)::uuid"
ROW = f"{ID.format(n='n')}, 'item number ' || n, '{BODY}', now()"

# The trigger that people write: the row before and after as jsonb, who and when.
AUDIT_SCHEMA = """
CREATE TABLE audit_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, table_name text NOT NULL,
    operation text NOT NULL, old_row jsonb, new_row jsonb, changed_by text NOT NULL DEFAULT session_user,
    changed_at timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit_log (table_name, operation, new_row) VALUES (TG_TABLE_NAME, TG_OP, to_jsonb(NEW));
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO audit_log (table_name, operation, old_row, new_row)
        VALUES (TG_TABLE_NAME, TG_OP, to_jsonb(OLD), to_jsonb(NEW));
    ELSE
        INSERT INTO audit_log (table_name, operation, old_row) VALUES (TG_TABLE_NAME, TG_OP, to_jsonb(OLD));
    END IF;
    RETURN NULL;
END $$;
"""

# And the one that proves something: each row's hash covers the one before, so writers stand in line.
CHAIN_SCHEMA = """
CREATE TABLE chain_log (position bigint PRIMARY KEY, table_name text NOT NULL, operation text NOT NULL, row_data jsonb NOT NULL,
    previous_hash text NOT NULL, hash text NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now());
INSERT INTO chain_log VALUES (0, '', '', '{}', '', repeat('0', 64));
CREATE FUNCTION chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    head chain_log;
    data jsonb := CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chain_log'));
    SELECT * INTO head FROM chain_log ORDER BY position DESC LIMIT 1;
    INSERT INTO chain_log (position, table_name, operation, row_data, previous_hash, hash)
    VALUES (head.position + 1, TG_TABLE_NAME, TG_OP, data, head.hash,
            encode(digest(head.hash || TG_TABLE_NAME || TG_OP || data::text, 'sha256'), 'hex'));
    RETURN NULL;
END $$;
"""


@dataclass
class Contender:
    name: str
    server: object
    # Begins the name of its tables. No two have one in common: what one leaves in a table must not slow down another.
    prefix: str
    # What is run once, and for each of its tables.
    schema: str = ""
    attach: str = ""
    # How many records it has of a table's rows that were inserted, or updated.
    count: str = ""
    ledger: object = None
    # How many rows have been written, by the name that the table is asked for. They are no longer all there.
    written: Counter = field(default_factory=Counter)

    def table(self, name):
        return f"{self.prefix}_{name}"

    def set_up(self):
        if self.schema:
            self.server.session.run(self.schema)
            # For settings of the database.
            self.server.close()

    def create_table(self, name, rows=0):
        """With so many rows, which were there before anything recorded them."""
        table, session = self.table(name), self.server.session
        if session.value(f"SELECT to_regclass('{table}')"):
            return
        session.run(f"CREATE TABLE {table} {COLUMNS}")
        if rows:
            session.run(f"INSERT INTO {table} SELECT {ROW} FROM generate_series(1, {rows}) AS n")
            session.run(f"VACUUM ANALYZE {table}")
        if self.attach:
            session.run(self.attach.format(table=table))
        if self.ledger is not None:
            wait_until("the baseline", lambda: session.value(
                f"SELECT state FROM ledger.tracked_tables WHERE table_name = '{table}'::regclass") == "tracked")
            self.ledger.wait_until_quiet()

    def check(self, name, operation="insert"):
        """That each row has been recorded: a contender that has done nothing costs nothing. Those of a table are all inserted
        or all updated."""
        if not self.count:
            return
        table, rows = self.table(name), self.written[name]
        records = int(self.server.session.value(self.count.format(table=table, operation=operation)))
        if records != rows:
            raise Failed(f"{self.name}: {rows} rows written to {table}, and {records} records of them")

    def check_log(self, name):
        """That pgaudit has logged each statement, where they are as many as rows."""
        table, rows = self.table(name), self.written[name]
        with open(os.environ["BENCH_PGAUDIT_LOG"], encoding="utf-8", errors="replace") as log:
            logged = sum("AUDIT: " in line and f"INSERT INTO {table} " in line for line in log)
        if logged != rows:
            raise Failed(f"{self.name}: {rows} rows inserted into {table}, and {logged} of them logged")

    def prepare(self):
        """Before each run. The checkpoint comes before every run, not once a round, since it is not free for who runs next: the
        first change of a page after it writes all of the page. So all pay that in each run, and begin with no page in
        memory that is still to be written, with the disk at rest, and with all WAL segments free to be used again."""
        if self.ledger is not None:
            self.ledger.set_mode(MODES[self.name])
        self.server.checkpoint()

    def refuse_checkpoint(self):
        if self.server.may_have_begun_checkpoint():
            raise Failed(f"{self.name}: a checkpoint fell into the run. Make SECONDS_EACH smaller, or max_wal_size larger")

    def work_off(self):
        """After each run: what is left to be done, once it is done."""
        self.refuse_checkpoint()
        return self.ledger.work_off() if self.ledger is not None else None


def has_pgcrypto(server):
    """Creates it, where this Postgres has it."""
    if not server.session.value("SELECT 1 FROM pg_available_extensions WHERE name = 'pgcrypto'"):
        return False
    server.session.run("CREATE EXTENSION IF NOT EXISTS pgcrypto")
    return True


def trigger(function):
    return (f"CREATE TRIGGER {function} AFTER INSERT OR UPDATE OR DELETE ON {{table}} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}()")


def all_contenders(server, ledger, without, pgaudit, say):
    """In the order of NAMES. `without`: a server without pg_notary. `pgaudit`: a database of its cluster, or None."""
    tracked = "SELECT ledger.track('{table}')"
    contenders = [
        Contender(PLAIN, server, "plain"),
        Contender(WITHOUT, without, "without"),
        Contender(AUDIT, server, "audited", AUDIT_SCHEMA, trigger("audit"),
                  "SELECT count(*) FROM audit_log WHERE table_name = '{table}'"),
    ]
    if has_pgcrypto(server):
        contenders.append(Contender(CHAIN, server, "chained", CHAIN_SCHEMA, trigger("chain"),
                                    "SELECT count(*) FROM chain_log WHERE table_name = '{table}'"))
    else:
        say("there is no pgcrypto for this Postgres: measured without")
    if pgaudit is not None:
        schema = (f"CREATE EXTENSION pgaudit; ALTER DATABASE {pgaudit.database} SET pgaudit.log = 'write'; "
                  f"ALTER DATABASE {pgaudit.database} SET pgaudit.log_parameter = on")
        contenders.append(Contender(PGAUDIT, pgaudit, "logged", schema))
    count = ("SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_{operation}' "
             "AND metadata ->> 'table' = 'public.{table}' AND signature IS NOT NULL")
    contenders += [Contender(name, server, f"tracked_{mode}", attach=tracked, count=count, ledger=ledger)
                   for name, mode in MODES.items()]
    for contender in contenders:
        contender.set_up()
    return contenders


def other_servers():
    """Two databases of the cluster without pg_notary: for the plain table, and one where pgaudit logs, if it is there."""
    pgaudit = Server.create(*OTHER_CLUSTER, "bench_pgaudit") if os.environ.get("BENCH_PGAUDIT_LOG") else None
    return Server.create(*OTHER_CLUSTER, "bench_work"), pgaudit
