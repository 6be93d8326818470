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
    yield f"{workload.title:<44}{workload.unit:>12}  {'ratio':>6}  {'runs':>15}"
    for contender in by_name(results.contenders(workload.id)):
        series = results.series(workload.id, contender)
        ratio = results.ratio(workload.id, contender)
        spread = f"{number(min(series.values))}..{number(max(series.values))}" if len(series.values) > 1 else ""
        line = f"  {contender:<42}{number(series.median):>12}  {'' if ratio is None else f'{ratio:.2f}':>6}  {spread:>15}"
        marks = [f"{verdict.wanted}: {'met' if verdict.is_met else 'miss'} ({verdict.measured})" for verdict in verdicts
                 if (verdict.workload, verdict.contender) == (workload.id, contender)]
        notes = [f"{name} {number(series.note(name))}" for name in series.note_names()]
        yield (line + "  " + "; ".join(marks)).rstrip()
        if notes:
            yield f"      {', '.join(notes)}"


def target_lines(results, verdicts):
    yield f"{'targets':<74}{'wanted':<40}{'measured':>12}"
    for verdict in verdicts:
        what = f"{results.workloads[verdict.workload].title}: {verdict.contender}"
        yield f"  {what:<72}{verdict.wanted:<40}{verdict.measured:>12}  {'met' if verdict.is_met else 'MISS'}"
    met = sum(verdict.is_met for verdict in verdicts)
    yield f"  {met} of {len(verdicts)} targets met"


def lines(results, verdicts, about):
    for name, value in about.items():
        yield f"{name:<16}{value}"
    for workload in results.workloads.values():
        yield ""
        yield from workload_lines(results, workload, verdicts)
    if verdicts:
        yield ""
        yield from target_lines(results, verdicts)
