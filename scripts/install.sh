#!/usr/bin/env bash
# make install: into the Postgres that PG_CONFIG names, or PG, or that is installed; below DESTDIR if that is set.
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/setup.sh"

if [ -z "${PG_CONFIG:-}" ]; then
    PG_CONFIG=$(find_installed_pg "${PG:-}") ||
        die "no installed Postgres ${PG:-14 to 18} with server headers found" "name one: make install PG_CONFIG=/path/to/pg_config"
fi
if have cargo; then
    setup_build "${PG:-}"
    build_extension
else
    # sudo make install, where root has no Rust
    setup_postgres "${PG:-}"
    PACKAGE=$WORK/package/$PG_MAJOR
    [ -d "$PACKAGE" ] || die "cargo is not in PATH, and nothing is built" "run 'make build' as yourself first"
    say "cargo is not in PATH: installing what was built before"
fi

pkglibdir=$("$PG_CONFIG" --pkglibdir)
extensiondir=$("$PG_CONFIG" --sharedir)/extension
for dir in "$pkglibdir" "$extensiondir"; do
    mkdir -p "${DESTDIR:-}$dir" 2>/dev/null || true
    [ -w "${DESTDIR:-}$dir" ] ||
        die "cannot write ${DESTDIR:-}$dir" "run it as a user who can, for instance: sudo make install PG_CONFIG=$PG_CONFIG"
done
install -m 755 "$PACKAGE$pkglibdir/pg_notary.so" "${DESTDIR:-}$pkglibdir/"
install -m 644 "$PACKAGE$extensiondir"/pg_notary* "${DESTDIR:-}$extensiondir/"
say "installed: ${DESTDIR:-}$pkglibdir/pg_notary.so and its files in ${DESTDIR:-}$extensiondir"
say "next: shared_preload_libraries = 'pg_notary', restart, CREATE EXTENSION pg_notary"
