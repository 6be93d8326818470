"""The results as JSON, for other programs."""

import json


def document(results, verdicts, unmeasured, about):
    return {
        "about": about,
        "workloads": [
            {
                "id": workload.id,
                "title": workload.title,
                "unit": workload.unit,
                "reference": workload.reference or None,
                "contenders": [contender_object(results, workload, name) for name in results.contenders(workload.id)],
            }
            for workload in results.workloads.values()
        ],
        "targets": [
            {"workload": verdict.workload, "contender": verdict.contender, "wanted": verdict.wanted,
             "measured": verdict.measured, "met": verdict.is_met}
            for verdict in verdicts
        ],
        "unmeasured": [{"workload": target.workload, "contender": target.contender} for target in unmeasured],
    }


def contender_object(results, workload, name):
    series = results.series(workload.id, name)
    return {"name": name, "median": series.median, "values": series.values, "ratio": results.ratio(workload.id, name),
            "reference": results.reference(workload.id, name) or None,
            # Of each round that has it.
            "notes": {note: series.noted(note) for note in series.note_names()}}


def text(results, verdicts, unmeasured, about):
    return json.dumps(document(results, verdicts, unmeasured, about), indent=1) + "\n"
