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
# pgaudit's hooks would take their time from whatever else is in their cluster, and those of pg_notary from pgaudit.
pgaudit=
if [ -e "$("$PG_BINDIR/pg_config" --pkglibdir)/pgaudit.so" ]; then
    pgaudit=pgaudit
else
    say "there is no pgaudit for this Postgres: measured without"
fi
say "starting a cluster without pg_notary${pgaudit:+, with pgaudit}"
cluster_start bench-other "${config[@]}" "shared_preload_libraries = '$pgaudit'"
export BENCH_OTHER_HOST=$PGHOST BENCH_OTHER_PORT=$PGPORT BENCH_PGAUDIT_LOG=${pgaudit:+$CLUSTER_LOG}
OTHER_LOG=$CLUSTER_LOG
say "starting a cluster"
CLUSTER_SECRET=$(new_secret)
cluster_start bench "${config[@]}"
# For the offline verifier.
export BENCH_SECRET_FILE=$RUN_DIR/secret
(umask 077 && echo "default:$CLUSTER_SECRET" >"$BENCH_SECRET_FILE")
BENCH_COMMIT=$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo "of an unknown commit")
export BENCH_COMMIT
export PATH=$PG_BINDIR:$PATH BENCH_DIRECTORY=$RUN_DIR BENCH_RESULTS=$WORK/bench PYTHONDONTWRITEBYTECODE=1
step python3 "$ROOT/scripts/bench" ||
    die "the benchmark failed; the servers' logs end:" "$(tail -n 20 "$OTHER_LOG" "$CLUSTER_LOG")"
