"""How much is measured: the full benchmark, or QUICK=1."""

import os
import sys
from dataclasses import dataclass

# In the order in which they are measured.
KINDS = ("insert", "update", "bulk", "load", "record", "sealing", "verify", "hash", "storage", "waits")


@dataclass(frozen=True)
class Scale:
    is_quick: bool
    # Every run is repeated so often, interleaved with those of the other contenders.
    rounds: int
    # Length of a run of pgbench.
    seconds: float
    clients: tuple
    # Numbers of clients for which only some contenders are measured.
    essential_clients: tuple
    # Rows of the table whose rows are updated, and by how many clients.
    table_rows: int
    update_clients: tuple
    # By how many documents are recorded.
    record_clients: tuple
    # Rows of one bulk statement.
    bulk_rows: int
    # Length of a load.
    load_seconds: float
    # Pending entries to seal.
    backlog: int
    # Entries of the ledgers to verify.
    ledgers: tuple
    # About how long one document is hashed again and again.
    hash_seconds: float
    # WAL segments that each cluster has before the first run: more than any run fills. The most is filled by the sealing of
    # the backlog, with 2 KB an entry. The next checkpoint gives them back.
    wal_segments: int
    kinds: tuple
    # Instead of all that: how cost grows, on ledgers of so many entries.
    sizes: tuple
    # In which mode of the mirror.
    mode: str

    def interleaved(self, settings, contenders, takes_part=lambda setting, contender: True):
        """Numbers of rounds, settings and contenders: in each round every setting, in each setting every contender that takes
        part in it. Every second round is the one before backwards, so that nobody always runs before whom it is compared
        with: what changes from run to run, as tables grow, then falls to both."""
        for number in range(self.rounds):
            for place, setting in enumerate(settings):
                order = in_turn([each for each in contenders if takes_part(setting, each)], number // 2 + place)
                for contender in order[::-1] if number % 2 else order:
                    yield number + 1, setting, contender


def in_turn(contenders, turn):
    """In another order each turn, the first as given, so that nobody always follows the same one: in as many turns as there are
    contenders, each follows any other once, or twice at most where their number is odd. For that they stand in a circle, and
    are taken from both sides to the middle, each turn beginning one further."""
    count = len(contenders)
    steps = [number // 2 if number % 2 == 0 else count - 1 - number // 2 for number in range(count)]
    circle = [contenders[number] for number in sorted(range(count), key=lambda number: steps[number])]
    return [circle[(step + turn) % count] for step in steps]


FULL = dict(rounds=4, seconds=10, clients=(1, 8, 16, 32, 64), essential_clients=(64,), table_rows=1_000_000,
            update_clients=(1, 16), record_clients=(1, 16), bulk_rows=200_000, load_seconds=20,
            backlog=1_000_000, ledgers=(1_000_000, 10_000_000), hash_seconds=1.0, wal_segments=256)
QUICK = dict(rounds=1, seconds=1, clients=(1, 16, 32), essential_clients=(32,), table_rows=20_000,
             update_clients=(16,), record_clients=(16,), bulk_rows=20_000, load_seconds=1, backlog=50_000, ledgers=(50_000,),
             hash_seconds=0.05, wal_segments=8)


def is_set(name):
    return os.environ.get(name, "") not in ("", "0")


def entries(text):
    """10M, 500k or 10000."""
    factor = {"k": 1_000, "M": 1_000_000}.get(text[-1], 1)
    digits = text if factor == 1 else text[:-1]
    if not digits.isdigit() or not int(digits):
        sys.exit(f"SIZES: {text} is not a number of entries, such as 500k or 10M")
    return int(digits) * factor


def growth_sizes(is_quick):
    if not is_set("GROWTH"):
        return ()
    default = "20k 100k" if is_quick else "1M 10M"
    sizes = sorted({entries(text) for text in (os.environ.get("SIZES") or default).replace(",", " ").split()})
    if len(sizes) > 4:
        sys.exit("SIZES: at most four")
    return tuple(sizes)


def growth_mode():
    mode = os.environ.get("MODE") or "sync"
    if mode not in ("sync", "write", "async", "off"):
        sys.exit(f"MODE: {mode} is none of sync, write, async and off")
    return mode


def from_environment():
    is_quick = is_set("QUICK")
    sizes = dict(QUICK if is_quick else FULL)
    if os.environ.get("ROUNDS"):
        sizes["rounds"] = int(os.environ["ROUNDS"])
    if os.environ.get("SECONDS_EACH"):
        sizes["seconds"] = int(os.environ["SECONDS_EACH"])
    kinds = tuple(os.environ.get("ONLY", "").split()) or KINDS
    unknown = set(kinds) - set(KINDS)
    if unknown:
        sys.exit(f"ONLY={' '.join(sorted(unknown))}: there are {' '.join(KINDS)}")
    return Scale(is_quick=is_quick, kinds=kinds, sizes=growth_sizes(is_quick), mode=growth_mode(), **sizes)
