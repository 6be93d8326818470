"""What is aimed at. A figure that misses its target stays in the table as a miss."""

import statistics
from dataclasses import dataclass, replace

import growth
import hashing
import load
import sealing
import verification
from contenders import ASYNC, AUDIT, OFF, PLAIN, SYNC, WRITE
from inserts import ALONE, FSYNC, SEALING_HELD, insert_id


@dataclass(frozen=True)
class Verdict:
    workload: str
    contender: str
    # In words: what was aimed at, and what was measured.
    wanted: str
    measured: str
    is_met: bool


@dataclass(frozen=True)
class AtLeastRatio:
    """A share of what another contender reaches in the same round."""

    workload: str
    contender: str
    minimum: float
    reference: str = PLAIN

    def judge(self, results):
        ratio = results.ratio(self.workload, self.contender, self.reference)
        if ratio is None:
            return None
        return Verdict(self.workload, self.contender, f">= {self.minimum:.2f} of {self.reference}", f"{ratio:.2f}",
                       ratio >= self.minimum)


@dataclass(frozen=True)
class AtLeast:
    """A number of its unit."""

    workload: str
    contender: str
    minimum: float

    def judge(self, results):
        series = results.series(self.workload, self.contender)
        if series is None:
            return None
        unit = results.workloads[self.workload].unit
        return Verdict(self.workload, self.contender, f">= {self.minimum:,.0f} {unit}", f"{series.median:,.0f}",
                       series.median >= self.minimum)


@dataclass(frozen=True)
class OnOneCore(AtLeast):
    """A rate that is reached, and that one core would reach too: the work may be that of several processes."""

    note: str

    def judge(self, results):
        verdict = super().judge(results)
        if verdict is None:
            return None
        rate = results.series(self.workload, self.contender).note(self.note)
        return replace(verdict, wanted=f"{verdict.wanted} on one core", measured=f"{verdict.measured}, {rate:,.0f}",
                       is_met=verdict.is_met and rate >= self.minimum)


@dataclass(frozen=True)
class NoteAtMost:
    """The most that was noted beside the figure in any round."""

    workload: str
    contender: str
    note: str
    maximum: float

    def judge(self, results):
        series = results.series(self.workload, self.contender)
        if series is None:
            return None
        noted = max(series.noted(self.note))
        return Verdict(self.workload, self.contender, f"<= {self.maximum:,.0f} {self.note}", f"{noted:,.0f}",
                       noted <= self.maximum)


@dataclass(frozen=True)
class LinesOrBytes:
    """So many lines or so many MB a second."""

    workload: str
    contender: str
    lines: float
    megabytes: float

    def judge(self, results):
        series = results.series(self.workload, self.contender)
        if series is None:
            return None
        lines, megabytes = series.note("lines/s"), series.note("MB/s")
        return Verdict(self.workload, self.contender, f">= {self.lines:,.0f} lines/s or {self.megabytes:,.0f} MB/s",
                       f"{lines:,.0f}, {megabytes:,.0f}", lines >= self.lines or megabytes >= self.megabytes)


@dataclass(frozen=True)
class Linear:
    """The rate of the larger one is that of the smaller, within a tenth."""

    smaller: str
    workload: str
    contender: str

    def judge(self, results):
        smaller, larger = results.series(self.smaller, self.contender), results.series(self.workload, self.contender)
        if smaller is None or larger is None:
            return None
        ratio = larger.median / smaller.median
        return Verdict(self.workload, self.contender, f">= 0.90 of {results.workloads[self.smaller].title}", f"{ratio:.2f}",
                       ratio >= 0.90)


@dataclass(frozen=True)
class GrowsWithClients:
    """From some clients to more, throughput grows as that of the plain table does, within a tenth."""

    fewer: int
    more: int
    contender: str

    @property
    def workload(self):
        return insert_id(self.more)

    def judge(self, results):
        fewer, more = (results.ratios(insert_id(clients), self.contender) for clients in (self.fewer, self.more))
        if not fewer or not more:
            return None
        gain = statistics.median(high / low for low, high in zip(fewer, more))
        return Verdict(self.workload, self.contender, f">= 0.90 of what {PLAIN} gains from {self.fewer} clients",
                       f"{gain:.2f}", gain >= 0.90)


@dataclass(frozen=True)
class DoesNotGrow:
    """What the largest ledger costs against the smallest: no more than a quarter above it."""

    workload: str
    contender: str
    is_rate: bool

    def judge(self, results):
        ratio = results.ratio(self.workload, self.contender)
        if ratio is None:
            return None
        wanted = ">= 0.80 of the smallest" if self.is_rate else "<= 1.25 of the smallest"
        return Verdict(self.workload, self.contender, wanted, f"{ratio:.2f}", ratio >= 0.80 if self.is_rate else ratio <= 1.25)


@dataclass(frozen=True)
class AddedLatency:
    """At one client: one sync of a file, and 20 percent of it."""

    workload: str
    contender: str

    def judge(self, results):
        mine, plain = results.series(self.workload, self.contender), results.series(self.workload, PLAIN)
        sync = results.series(FSYNC.id, ALONE)
        if mine is None or plain is None or sync is None:
            return None
        # In each round, in microseconds.
        added = statistics.median(1e6 / value - 1e6 / base for value, base in zip(mine.values, plain.values))
        allowed = 1.2 * min(sync.values)
        return Verdict(self.workload, self.contender, f"<= {allowed:,.0f} us added (1.2 fdatasync)", f"{added:,.0f} us",
                       added <= allowed)


def verification_targets(scale):
    targets = []
    for entries in scale.ledgers:
        workload = verification.workload(entries).id
        targets += [AtLeast(workload, verification.CHAIN, 400_000),
                    NoteAtMost(workload, verification.CHAIN, "MB of memory", 256),
                    LinesOrBytes(workload, verification.CLI, 700_000, 300)]
    for smaller, larger in zip(scale.ledgers, scale.ledgers[1:]):
        targets.append(Linear(verification.workload(smaller).id, verification.workload(larger).id, verification.CHAIN))
    return targets


def growth_targets(scale):
    contender = growth.size_name(scale.sizes[-1])
    workloads = [workload for workload in (*growth.RATES, *growth.TIMES)
                 if workload != growth.RECOVERY.id or scale.mode in growth.RECOVERY_MODES]
    return [DoesNotGrow(workload, contender, workload in growth.RATES) for workload in workloads]


def all_targets(scale):
    if scale.sizes:
        return growth_targets(scale) if len(scale.sizes) > 1 else []
    sixteen = insert_id(16)
    targets = [AtLeastRatio(sixteen, contender, 0.75) for contender in (WRITE, ASYNC)]
    targets += [AtLeastRatio(sixteen, contender, 1.0, AUDIT) for contender in (WRITE, ASYNC)]
    targets += [AtLeastRatio(sixteen, SYNC, 0.60), AtLeastRatio(insert_id(64), SYNC, 0.70)]
    targets += [AddedLatency(insert_id(1), SYNC)]
    targets += [GrowsWithClients(8, 32, contender) for contender in (SYNC, WRITE, ASYNC, OFF)]
    targets += [AtLeastRatio(sixteen, contender, 0.90, SEALING_HELD[contender]) for contender in SEALING_HELD]
    targets += [AtLeastRatio(load.WORKLOAD.id, contender, 0.90, SEALING_HELD[contender]) for contender in SEALING_HELD]
    for workload in ("insert-select", "copy"):
        targets += [AtLeastRatio(workload, contender, 1.0, AUDIT) for contender in (SYNC, WRITE, ASYNC, OFF)]
    targets += [OnOneCore("sealing", contender, 150_000, sealing.PER_CPU_SECOND) for contender in (SYNC, OFF)]
    targets += verification_targets(scale)
    targets += [AtLeastRatio(hashing.workload(size).id, hashing.OURS, 1.0, hashing.DIGEST) for size in hashing.SIZES]
    return targets


def judge(results, scale):
    """The verdicts, and the targets that nothing was measured for, as some contender or workload is missing."""
    judged = [(target, target.judge(results)) for target in all_targets(scale)]
    return ([verdict for _, verdict in judged if verdict is not None],
            [target for target, verdict in judged if verdict is None])
