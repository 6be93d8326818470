"""What was measured: samples of each workload and contender, their medians, and ratios within a round."""

import statistics
from dataclasses import dataclass, field


# As a reference: whoever was measured first.
FIRST = "the first"


@dataclass(frozen=True)
class Workload:
    id: str
    title: str
    unit: str
    # With whom the others are compared.
    reference: str = ""


@dataclass
class Series:
    """The samples of one contender, one a round, and what else was noted in each."""

    values: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    @property
    def median(self):
        return statistics.median(self.values)

    def note(self, name):
        """The median of what was noted under this name, None if nothing was."""
        values = [note[name] for note in self.notes if name in note]
        return statistics.median(values) if values else None

    def note_names(self):
        return list(dict.fromkeys(name for note in self.notes for name in note))


class Results:
    def __init__(self):
        self.workloads = {}
        self._series = {}

    def add(self, workload, contender, value, **notes):
        self.workloads[workload.id] = workload
        series = self._series.setdefault(workload.id, {}).setdefault(contender, Series())
        series.values.append(value)
        series.notes.append(notes)

    def contenders(self, workload_id):
        return list(self._series.get(workload_id, {}))

    def series(self, workload_id, contender):
        return self._series.get(workload_id, {}).get(contender)

    def ratio(self, workload_id, contender, reference=None):
        """The contender's figure as a multiple of the reference's: the median of the ratios of each round, since what else
        the machine does changes from round to round. None where one of them was not measured."""
        workload = self.workloads.get(workload_id)
        reference = reference or (workload.reference if workload else "")
        if reference == FIRST:
            reference = self.contenders(workload_id)[0]
        mine, other = self.series(workload_id, contender), self.series(workload_id, reference)
        if mine is None or other is None:
            return None
        return statistics.median(value / base for value, base in zip(mine.values, other.values))
