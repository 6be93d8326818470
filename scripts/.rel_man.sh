set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/setup.sh
. scripts/cluster.sh
setup_build
PACKAGE=$WORK/package/$PG_MAJOR
private_postgres
mapfile -t config <scripts/bench/postgresql.conf
cluster_start man "${config[@]}" "$@"
echo "export PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=postgres PGDATABASE=postgres PATH=$PG_BINDIR:\$PATH RUN_DIR=$RUN_DIR CLUSTER_LOG=$CLUSTER_LOG" > /work/sp/man.env
while [ ! -e /work/sp/man.stop ]; do sleep 1; done
rm -f /work/sp/man.stop
