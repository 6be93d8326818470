#!/usr/bin/env bash
# make test: every test against one major version of Postgres. make test-domain (domain): those that need no Postgres;
# make test-cluster (cluster): those on clusters, and the domain's. Ends with a line 'N passed, N failed'.
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/setup.sh"
. "$ROOT/scripts/cluster.sh"

passed=0 failed=0
# What failed, to be said again at the end: logs are often cut in the middle.
failures=
logs=$(mktemp -d "$WORK/.test.XXXX")
RUN_DIRS+=("$logs")

# run_logged NAME COMMAND...: shows the output and keeps it for counting.
run_logged() {
    local log=$logs/$1
    shift
    step show_and_keep "$log" "$@"
}
show_and_keep() {
    local log=$1
    shift
    # When all of it is told to end, tee goes last.
    "$@" 2>&1 | (trap '' HUP INT TERM; exec tee "$log")
}

# add NAME STATUS PASSED FAILED: a part that failed without saying how counts as one failure.
add() {
    local name=$1 status=$2 good=$3 bad=$4
    [ "$status" = 0 ] || [ "$bad" != 0 ] || bad=1
    if [ "$good" = 0 ] && [ "$bad" = 0 ]; then
        say "$name: no test was run"
        bad=1
    fi
    say "$name: $good passed, $bad failed"
    passed=$((passed + good)) failed=$((failed + bad))
}

run_cargo() {
    local name=$1 status=0 counts
    shift
    setup_cargo
    run_logged "$name" cargo test --locked --no-fail-fast --no-default-features --features "$@" || status=$?
    # test result: ok. 12 passed; 0 failed; 0 ignored; ... An ignored test is a failure: nothing is skipped here.
    counts=$(awk '/^test result: / { for (i = 2; i <= NF; i++) { if ($i == "passed;") p += $(i-1);
        if ($i == "failed;" || $i == "ignored;") f += $(i-1) } } END { print p + 0, f + 0 }' "$logs/$name")
    # shellcheck disable=SC2086
    add "$name" "$status" $counts
    # As cargo reports them: between these lines.
    failures+=$(sed -n '/^failures:$/,/^test result: /p' "$logs/$name")
}

run_regress() {
    local status=0 counts
    run_logged regress "$ROOT/scripts/regress.sh" || status=$?
    # Postgres 15 and older: test name ... ok 12 ms; newer: ok 1 - name 12 ms.
    counts=$(awk '/^test .* \.\.\. ok/ || /^ok [0-9]+ / { p++ } /^test .* \.\.\. FAILED/ || /^not ok [0-9]+ / { f++ }
        END { print p + 0, f + 0 }' "$logs/regress")
    # shellcheck disable=SC2086
    add "SQL surface" "$status" $counts
}

# What is released cannot be made to fail on purpose.
check_release() {
    local status=0
    if grep -q -r --include='pg_notary.so' 'pg_notary\.fault' "$WORK/package/$PG_MAJOR"; then status=1; fi
    grep -q -r --include='pg_notary.so' 'pg_notary\.fault' "$WORK/package/$PG_MAJOR-fault-injection" || status=1
    add "no fault injection in the release build" "$status" "$((1 - status))" "$status"
}

run_cluster() {
    setup_build "${PG:-}"
    setup_companions
    # With places where the tests make the server fail.
    build_extension fault-injection
    private_postgres
    run_directory test
    export PG_NOTARY_TEST_BINDIR=$PG_BINDIR PG_NOTARY_TEST_DIR=$RUN_DIR
    run_cargo "domain and clusters" cli,cluster-tests -- --test-threads=4
}

case ${1:-all} in
domain) run_cargo domain cli ;;
cluster) run_cluster ;;
all)
    run_cluster
    # The same Postgres again, whatever was chosen.
    PG=$PG_MAJOR PG_CONFIG=$PG_CONFIG run_regress
    check_release
    ;;
*) die "usage: $0 [all|domain|cluster]" ;;
esac
[ -z "$failures" ] || printf '%s\n' "$failures"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
