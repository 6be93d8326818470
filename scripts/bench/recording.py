"""hash_and_record: documents that are in no table. Beside it, the single-row INSERT into the plain table."""

from contenders import BODY, PLAIN
from inserts import TABLE, prepare, run_once
from results import Workload
from run import measure_run
from server import Failed

ENTRY_TYPE = "document"
SCRIPT = f"SELECT ledger.hash_and_record('{ENTRY_TYPE}', :body, '{{}}');\n"


def workload(clients):
    title = f"hash_and_record, {clients} client{'s' if clients > 1 else ''}"
    return Workload(f"record-{clients}", title, "entries/s", PLAIN)


def name(contender):
    return contender.name.replace("tracked", "recorded")


def measure_one(results, contender, clients, seconds):
    if contender.ledger is None:
        prepare(contender)
        results.add(workload(clients), contender.name, run_once(contender, clients, seconds).rate)
        return

    def write():
        run = contender.server.pgbench(SCRIPT, clients, seconds, variables={"body": BODY})
        contender.written[ENTRY_TYPE] += run.transactions
        return run.transactions, run.seconds

    contender.prepare()
    measure_run(results, workload(clients), name(contender), contender, write)


def measure(results, contenders, scale, say):
    compared = [contender for contender in contenders if contender.ledger is not None or contender.name == PLAIN]
    for contender in compared:
        if contender.ledger is None:
            contender.create_table(TABLE)
    for number, clients, contender in scale.interleaved(scale.record_clients, compared):
        say(f"hash_and_record, round {number} of {scale.rounds}, {clients} clients: {name(contender)}")
        measure_one(results, contender, clients, scale.seconds)
    check(compared)


def check(compared):
    """That all of it was recorded, in whatever mode."""
    calls = sum(contender.written[ENTRY_TYPE] for contender in compared)
    count = f"SELECT count(*) FROM ledger.entries WHERE entry_type = '{ENTRY_TYPE}' AND signature IS NOT NULL"
    recorded = int(compared[0].server.session.value(count))
    if recorded != calls:
        raise Failed(f"hash_and_record was called {calls} times, and has recorded {recorded} entries")
