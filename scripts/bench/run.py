"""One run of one contender, and what is noted of it."""

# Of what was written in the run.
LEFT = "% left to seal"


def catch_up_notes(backlog, rows):
    """What was left to be done when the writers of so many rows ended: its cost is not in their figure."""
    if backlog is None:
        return {}
    return {"pending": backlog.pending, "lines behind": backlog.lag, "seconds to catch up": backlog.seconds,
            LEFT: 100 * backlog.pending / rows}


def measure_run(results, workload, name, contender, write):
    """`write` writes some rows into the contender's table, and returns how many and in how many seconds."""
    position = contender.server.wal_position()
    rows, seconds = write()
    backlog = contender.work_off()
    wal = contender.server.wal_position() - position
    results.add(workload, name, rows / seconds, **{"wal bytes/row": wal / rows}, **catch_up_notes(backlog, rows))
