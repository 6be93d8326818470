"""What was measured: samples of each workload and contender, their medians, and ratios within a round."""

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Workload:
    id: str
    title: str
    unit: str
    # With whom the others are compared, but for those that have a reference of their own.
    reference: str = ""


@dataclass
class Series:
    """The samples of one contender, one a round, and what else was noted in each."""

    values: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    @property
    def median(self):
        return statistics.median(self.values)

    def noted(self, name):
        """What was noted under this name, in each round that has it."""
        return [note[name] for note in self.notes if name in note]

    def note(self, name):
        """The median of what was noted under this name, None if nothing was."""
        values = self.noted(name)
        return statistics.median(values) if values else None

    def note_names(self):
        return list(dict.fromkeys(name for note in self.notes for name in note))


class Results:
    def __init__(self, references):
        # With whom a contender is compared, where that is not its workload's reference.
        self.references = references
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

    def reference(self, workload_id, contender):
        """With whom it is compared; empty if with nobody."""
        return self.references.get(contender) or self.workloads[workload_id].reference

    def ratios(self, workload_id, contender, reference=None):
        """The contender's figure as a multiple of the reference's, in each round. Empty where one of them was not measured."""
        mine = self.series(workload_id, contender)
        if mine is None:
            return []
        other = self.series(workload_id, reference or self.reference(workload_id, contender))
        if other is None:
            return []
        return [value / base for value, base in zip(mine.values, other.values)]

    def ratio(self, workload_id, contender, reference=None):
        """The median of the ratios of each round, since what else the machine does changes from round to round. None where
        one of them was not measured."""
        ratios = self.ratios(workload_id, contender, reference)
        return statistics.median(ratios) if ratios else None
