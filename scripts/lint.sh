#!/usr/bin/env bash
# make lint: formatting, clippy and rustdoc, warnings denied, on all feature sets: the pure ones, and those of the majors
# given (15 and 18 unless told).
. "$(dirname "$0")/lib.sh"
. "$ROOT/scripts/setup.sh"

[ $# -gt 0 ] || set -- 15 18
setup_cargo
say "cargo fmt"
step cargo fmt --check

# lint FEATURES CLIPPY_TARGETS [CARGO OPTION...]
lint() {
    local features=$1 targets=$2
    shift 2
    say "clippy and rustdoc, features: ${features:-none}"
    step cargo clippy "${cargo_config[@]}" --quiet --locked --no-default-features --features "$features" \
        "$targets" "$@" -- -D warnings
    RUSTDOCFLAGS="-D warnings" step cargo doc "${cargo_config[@]}" --quiet --locked --no-deps --no-default-features \
        --features "$features" "$@"
}

cargo_config=()
lint "" --all-targets
lint cli,cluster-tests --all-targets

# With the profile, target and flags of the packaged build (cargo-pgrx adds these), so that bindgen runs once a major.
cargo_config=(--config "target.'cfg(all(target_family = \"unix\", not(target_os = \"macos\")))'.rustflags = [\"-C\", \"link-arg=-Wl,--no-gc-sections\"]")
given=${PG_CONFIG:-}
for major in "$@"; do
    PG_CONFIG=
    [ $# -gt 1 ] || PG_CONFIG=$given
    setup_postgres "$major"
    setup_libclang
    build_environment
    lint "pg$major" --lib --release
    lint "pg$major,fault-injection" --lib --release
    # The glue is private: its documentation is checked as well.
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" step cargo doc "${cargo_config[@]}" --quiet --locked --no-deps \
        --no-default-features --features "pg$major" --release --document-private-items
done
