"""What clients that insert wait for, by samples of pg_stat_activity. Runs of their own: sampling slows down."""

import threading
from collections import Counter

from contenders import AUDIT, PLAIN, SYNC, WRITE
from inserts import TABLE, prepare, run_once
from results import Workload

CLIENTS = 16
INTERVAL = 0.01
MOST = 6
RUNNING = "no wait"
WAITS = Workload("waits", f"single-row INSERT, {CLIENTS} clients: samples", "% no wait")

QUERY = f"""SELECT COALESCE(wait_event_type || ':' || wait_event, '{RUNNING}'), count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid() GROUP BY 1"""


class Sampler(threading.Thread):
    """Counts waits until it is told to stop."""

    def __init__(self, server):
        super().__init__()
        self.session = server.open_session()
        self.done = threading.Event()
        self.counts = Counter()

    def run(self):
        while not self.done.wait(INTERVAL):
            for row in self.session.run(QUERY):
                event, _, count = row.rpartition("|")
                self.counts[event] += int(count)

    def stop(self):
        self.done.set()
        self.join()
        self.session.close()


def measure_one(results, contender, seconds):
    prepare(contender)
    sampler = Sampler(contender.server)
    sampler.start()
    try:
        run_once(contender, CLIENTS, seconds)
    finally:
        sampler.stop()
    contender.work_off()
    total = max(sum(sampler.counts.values()), 1)
    shares = {event: 100 * count / total for event, count in sampler.counts.most_common(MOST + 1) if event != RUNNING}
    results.add(WAITS, contender.name, 100 * sampler.counts[RUNNING] / total, **shares)


def measure(results, contenders, scale, say):
    compared = [contender for contender in contenders if contender.name in (PLAIN, AUDIT, SYNC, WRITE)]
    for contender in compared:
        contender.create_table(TABLE)
    for number, _, contender in scale.interleaved((None,), compared):
        say(f"waits, round {number} of {scale.rounds}: {contender.name}")
        measure_one(results, contender, scale.seconds)
