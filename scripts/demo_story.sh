#!/usr/bin/env bash
# The main job, told with psql. Runs inside demo.sh, which has set PATH, PGHOST, PGPORT, PGUSER and PGDATABASE.
set -euo pipefail
psql -X -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION pg_notary' -c '\dx pg_notary'
