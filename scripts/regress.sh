#!/usr/bin/env bash
# make regress: pg_regress/ against a throwaway cluster. make installcheck (--installed): against a running server.
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/setup.sh"
. "$ROOT/scripts/cluster.sh"

# run_regress PSQL_DIRECTORY: every test there is, with the pg_regress of the Postgres at PG_CONFIG.
run_regress() {
    local program tests=() file name missing=0 output=$WORK/regress/$PG_MAJOR
    program=$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress
    [ -x "$program" ] || die "no pg_regress at $program" "on Debian it is in postgresql-server-dev-$PG_MAJOR"
    for file in pg_regress/sql/*.sql; do
        name=$(basename "$file" .sql)
        # pg_regress fails such a test as well, but stops there.
        [ -e "pg_regress/expected/$name.out" ] || { say "$file has no expected output"; missing=1; }
        tests+=("$name")
    done
    for file in pg_regress/expected/*.out; do
        name=$(basename "$file" .out)
        [ -e "pg_regress/sql/$name.sql" ] || [ -e "pg_regress/sql/${name%_[0-9]}.sql" ] ||
            { say "$file belongs to no test"; missing=1; }
    done
    [ "$missing" = 0 ] || die "the regression suite is not whole"
    mkdir -p "$output"
    step "$program" --inputdir=pg_regress --outputdir="$output" --bindir="$1" --dbname=contrib_regression "${tests[@]}" && return
    [ ! -s "$output/regression.diffs" ] || cat "$output/regression.diffs"
    return 1
}

if [ "${1:-}" = --installed ]; then
    if [ -z "${PG_CONFIG:-}" ]; then
        PG_CONFIG=$(find_installed_pg "${PG:-}") || die "no installed Postgres found" "name one: make installcheck PG_CONFIG=/path/to/pg_config"
    fi
    setup_postgres "${PG:-}"
    run_regress "$("$PG_CONFIG" --bindir)"
else
    setup_build "${PG:-}"
    build_extension
    private_postgres
    config=()
    [ ! -e pg_regress/postgresql.conf ] || mapfile -t config <pg_regress/postgresql.conf
    cluster_start regress "fsync = off" "${config[@]}"
    run_regress "$PG_BINDIR"
fi
