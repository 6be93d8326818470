"""Which charts there are of the results."""

import growth
import hashing
import inserts
import updates
import verification
from contenders import ASYNC, AUDIT, CHAIN, OFF, PGAUDIT, PLAIN, SYNC, WITHOUT, WRITE
from svg import Panel, page
from targets import AtLeast, AtLeastRatio, all_targets

# Those of Okabe and Ito, which the colour-blind can tell apart.
COLOURS = {PLAIN: "#999999", WITHOUT: "#444444", AUDIT: "#e69f00", CHAIN: "#cc79a7", PGAUDIT: "#f0e442", SYNC: "#d55e00",
           WRITE: "#0072b2", ASYNC: "#56b4e9", OFF: "#009e73"}
VERIFIERS = {verification.CHAIN: "#0072b2", verification.ROWS: "#56b4e9", verification.CLI: "#009e73"}
HASHERS = {hashing.OURS: "#d55e00", hashing.DIGEST: "#e69f00", hashing.CORE: "#cc79a7", hashing.DIGEST_TEXT: "#999999",
           hashing.CORE_TEXT: "#bbbbbb"}
SIZES = ("#999999", "#56b4e9", "#0072b2", "#222222")
WIDTH, HEIGHT = 560, 330


def medians(results, groups, colours):
    """`groups`: workloads by how the chart calls them."""
    return {(group, name): results.series(workload, name).median for group, workload in groups.items()
            for name in colours if results.series(workload, name)}


def insert_panel(results, scale):
    groups = {clients: inserts.insert_id(clients) for clients in scale.clients}
    values = medians(results, groups, COLOURS)
    panel = Panel("Single-row INSERT by number of clients", "rows a second", WIDTH, HEIGHT, max(values.values()))
    panel.lines(list(groups), COLOURS, values)
    panel.x_label("clients")
    return panel


def ratio_panel(results, scale):
    groups = {f"INSERT {clients}": inserts.insert_id(clients) for clients in (1, 16)}
    groups |= {"UPDATE": updates.update_id(scale.update_clients[-1])}
    groups |= {"INSERT SELECT": "insert-select", "COPY": "copy"}
    groups = {group: workload for group, workload in groups.items() if workload in results.workloads}
    colours = {name: colour for name, colour in COLOURS.items() if name != PLAIN}
    values = {(group, name): results.ratio(workload, name) for group, workload in groups.items() for name in colours
              if results.series(workload, name)}
    marks = {(group, target.contender): target.minimum for group, workload in groups.items()
             for target in all_targets(scale)
             if isinstance(target, AtLeastRatio) and target.reference == PLAIN and target.workload == workload}
    panel = Panel("Throughput against the plain table (black line: target)",
                  f"ratio, plain table = 1 (for {PGAUDIT}, that without pg_notary)", WIDTH, HEIGHT, max(1.0, *values.values()))
    panel.bars(list(groups), colours, values, marks)
    return panel


def verification_panel(results, scale):
    groups = {f"{entries:,} entries": verification.workload(entries).id for entries in scale.ledgers}
    values = medians(results, groups, VERIFIERS)
    marks = {(group, target.contender): target.minimum for group, workload in groups.items()
             for target in all_targets(scale) if isinstance(target, AtLeast) and target.workload == workload}
    panel = Panel("Verification (black line: target)", "entries a second", WIDTH, HEIGHT,
                  max([*values.values(), *marks.values()]))
    panel.bars(list(groups), VERIFIERS, values, marks)
    return panel


def sealing_panel(results, scale):
    colours = {name: COLOURS[name] for name in (SYNC, OFF)}
    groups = {results.workloads["sealing"].title: "sealing"}
    values = medians(results, groups, colours)
    marks = {(group, target.contender): target.minimum for group in groups for target in all_targets(scale)
             if isinstance(target, AtLeast) and target.workload == "sealing"}
    panel = Panel("Sealing (black line: target)", "entries a second", WIDTH, HEIGHT,
                  max([*values.values(), *marks.values()]))
    panel.bars(list(groups), colours, values, marks)
    return panel


def hashing_panel(results):
    groups = {size: hashing.workload(size).id for size in hashing.SIZES}
    values = {(group, name): results.series(workload, name).note("MB/s of jsonb::text")
              for group, workload in groups.items() for name in HASHERS if results.series(workload, name)}
    panel = Panel("Hashing a document", "MB a second, of the document's text", WIDTH, HEIGHT, max(values.values()),
                  is_logarithmic=True, bottom=min(values.values()))
    panel.bars(list(groups), HASHERS, values)
    return panel


def storage_panel(results):
    colours = {"table": "#999999", "what is recorded": "#0072b2", "mirror file": "#56b4e9", "WAL, in passing": "#e69f00"}
    values = {}
    for name in results.contenders("storage"):
        series = results.series("storage", name)
        table = series.note("table heap") + series.note("table indexes")
        values |= {(name, "table"): table, (name, "what is recorded"): series.median - table,
                   (name, "WAL, in passing"): series.note("WAL")}
        if series.note("file") is not None:
            values[name, "mirror file"] = series.note("file")
    panel = Panel("Storage of a row", "bytes", WIDTH, HEIGHT, max(values.values()))
    panel.bars(results.contenders("storage"), colours, values)
    return panel


def growth_panel(results, scale):
    """All as cost, so that more is worse everywhere."""
    names = {**growth.RATES, **growth.TIMES}
    colours = dict(zip(map(growth.size_name, scale.sizes), SIZES))
    values = {}
    for workload, group in names.items():
        for name in colours:
            ratio = results.ratio(workload, name)
            if ratio is not None:
                values[group, name] = 1 / ratio if workload in growth.RATES else ratio
    panel = Panel("Cost against the smallest ledger", "time, smallest ledger = 1", 2 * WIDTH, HEIGHT,
                  max(values.values()))
    panel.bars(list(names.values()), colours, values)
    return panel


def draw(results, scale, facts):
    """The charts of what was measured, as SVG; nothing where there is no chart of it."""
    if scale.sizes:
        return page("pg_notary: how cost grows", "; ".join(facts.values()), [growth_panel(results, scale)])
    panels = []
    if "insert" in scale.kinds:
        panels.append(insert_panel(results, scale))
    if results.workloads.keys() & {inserts.insert_id(1), updates.update_id(16), "copy"}:
        panels.append(ratio_panel(results, scale))
    if "verify" in scale.kinds:
        panels.append(verification_panel(results, scale))
    if "sealing" in scale.kinds:
        panels.append(sealing_panel(results, scale))
    if "hash" in scale.kinds:
        panels.append(hashing_panel(results))
    if "storage" in scale.kinds:
        panels.append(storage_panel(results))
    return page("pg_notary: what recording costs", "; ".join(facts.values()), panels) if panels else ""
