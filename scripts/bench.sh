#!/usr/bin/env bash
# make bench: what recording costs, measured on throwaway clusters of the release build, and held against the targets.
# QUICK=1, ONLY, ROUNDS, SECONDS_EACH, GROWTH, SIZES and MODE are read by scripts/bench.
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/setup.sh"
. "$ROOT/scripts/cluster.sh"

have python3 || die "python3 is not in PATH"
setup_build "${PG:-}"
setup_companions
build_extension
build_cli
private_postgres

config=()
mapfile -t config <"$ROOT/scripts/bench/postgresql.conf"
# A cluster of its own: pgaudit's hooks would take their time from the others too.
if [ -e "$("$PG_BINDIR/pg_config" --pkglibdir)/pgaudit.so" ]; then
    say "starting a cluster with pgaudit"
    cluster_start bench-pgaudit "${config[@]}" "shared_preload_libraries = 'pgaudit'"
    export BENCH_PGAUDIT_HOST=$PGHOST BENCH_PGAUDIT_PORT=$PGPORT BENCH_PGAUDIT_LOG=$CLUSTER_LOG
else
    say "there is no pgaudit for this Postgres: measured without"
    unset BENCH_PGAUDIT_HOST
fi
say "starting a cluster"
cluster_start bench "${config[@]}"
export PATH=$PG_BINDIR:$PATH BENCH_DIRECTORY=$RUN_DIR BENCH_RESULTS=$WORK/bench PYTHONDONTWRITEBYTECODE=1
step python3 "$ROOT/scripts/bench" || die "the benchmark failed; the server's log ends:" "$(tail -n 20 "$CLUSTER_LOG")"
