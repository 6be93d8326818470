#!/usr/bin/env bash
# make demo: everything from nothing to the main job, on a cluster of its own.
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/setup.sh"
. "$ROOT/scripts/cluster.sh"

setup_build "${PG:-}"
build_extension
build_cli
private_postgres
say "starting a cluster"
cluster_start demo
PATH=$PG_BINDIR:$PATH step "$ROOT/scripts/demo_story.sh" || die "the demo failed; the server's log ends:" "$(tail -n 20 "$CLUSTER_LOG")"
