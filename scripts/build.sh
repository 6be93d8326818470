#!/usr/bin/env bash
# make build: the release extension, packaged under target/package/MAJOR.
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/setup.sh"

setup_build "${PG:-}"
build_extension
say "built: $PACKAGE"
