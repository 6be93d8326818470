# shellcheck shell=bash
# What every script here needs: places, messages, and commands that can be interrupted. Sourced.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# Everything these scripts fetch or make lands here. Cargo's own output goes to CARGO_TARGET_DIR where that is set.
mkdir -p "$ROOT/target/tools"
WORK=$(cd "$ROOT/target" && pwd -P)
# What is fetched, and stays after make clean.
export TOOLS=$WORK/tools
cd "$ROOT"

say() { printf '== %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# = 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# Runs a command in a process group of its own and waits for it, so that a signal to the script takes effect
# at once and ends everything the command started.
STEP=
step() {
    local status=0
    set -m
    "$@" </dev/null &
    STEP=$!
    set +m
    wait "$STEP" || status=$?
    STEP=
    return "$status"
}
end_step() {
    [ -n "$STEP" ] || return 0
    kill -TERM -- "-$STEP" 2>/dev/null || true
    wait "$STEP" 2>/dev/null || true
    STEP=
}

# Each script that starts something extends cleanup (cluster.sh does).
cleanup() { end_step; }
trap 'cleanup' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Two runs in one checkout take turns where they would write the same files.
locked() {
    local name=$1 fd
    shift
    if have flock; then
        exec {fd}>"$WORK/.$name.lock"
        flock "$fd"
        "$@"
        exec {fd}>&-
    else
        "$@"
    fi
}
