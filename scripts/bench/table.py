"""The results as text."""

from contenders import NAMES


def number(value):
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"


def by_name(contenders):
    """Those that have a place of their own in it, then the others as they came."""
    return sorted(contenders, key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES))


def workload_lines(results, workload, verdicts):
    names = by_name(results.contenders(workload.id))
    width = max(len(workload.title), *(len(name) + 2 for name in names)) + 2
    yield f"{workload.title:<{width}}{workload.unit:>12}  {'ratio':>6}  {'lowest..highest':>18}".rstrip()
    for name in names:
        series, ratio = results.series(workload.id, name), results.ratio(workload.id, name)
        spread = f"{number(min(series.values))}..{number(max(series.values))}" if len(series.values) > 1 else ""
        line = f"  {name:<{width - 2}}{number(series.median):>12}  {'' if ratio is None else f'{ratio:.2f}':>6}  {spread:>18}"
        reference = results.reference(workload.id, name)
        marks = [f"ratio to {reference}"] if workload.reference not in ("", reference) else []
        marks += [f"{verdict.wanted}: {'met' if verdict.is_met else 'MISS'}" for verdict in verdicts
                 if (verdict.workload, verdict.contender) == (workload.id, name)]
        yield (line + "  " + "; ".join(marks)).rstrip()
        notes = [f"{note} {number(series.note(note))}" for note in series.note_names()]
        if notes:
            yield f"      {', '.join(notes)}"


def target_lines(results, verdicts, unmeasured):
    rows = [(f"{results.workloads[verdict.workload].title}: {verdict.contender}", verdict.wanted, verdict.measured,
             "met" if verdict.is_met else "MISS") for verdict in verdicts]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    yield f"{'targets':<{widths[0] + 2}}  {'wanted':<{widths[1]}}  {'measured':>{widths[2]}}"
    for what, wanted, measured, verdict in rows:
        yield f"  {what:<{widths[0]}}  {wanted:<{widths[1]}}  {measured:>{widths[2]}}  {verdict}"
    met = sum(verdict.is_met for verdict in verdicts)
    yield f"  {met} of {len(verdicts)} targets met"
    if unmeasured:
        yield f"  not measured: {len(unmeasured)} more targets ({', '.join(dict.fromkeys(each.workload for each in unmeasured))})"


def lines(results, verdicts, unmeasured, about):
    for name, value in about.items():
        yield f"{name:<12}{value}"
    for workload in results.workloads.values():
        yield ""
        yield from workload_lines(results, workload, verdicts)
    if verdicts:
        yield ""
        yield from target_lines(results, verdicts, unmeasured)
