# shellcheck shell=bash
# A throwaway cluster: started on a free port and a private socket, stopped and removed whatever happens. Sourced, after
# setup.sh. Servers refuse to run as root, so root gives them to an unprivileged user.

if is_root; then
    if id postgres >/dev/null 2>&1; then SERVER_USER=postgres; else SERVER_USER=nobody; fi
fi

# Runs a program as the user of the servers.
as_server() {
    if is_root; then
        setpriv --reuid "$(id -u "$SERVER_USER")" --regid "$(id -g "$SERVER_USER")" --clear-groups -- "$@"
    else
        "$@"
    fi
}

# Replaces the shell by a server, which the kernel stops (SIGQUIT: at once) should this script be killed outright.
exec_server() {
    if is_root; then
        exec setpriv --reuid "$(id -u "$SERVER_USER")" --regid "$(id -g "$SERVER_USER")" --clear-groups \
            --pdeathsig QUIT -- "$@"
    elif setpriv --pdeathsig QUIT true 2>/dev/null; then
        exec setpriv --pdeathsig QUIT -- "$@"
    else
        exec "$@"
    fi
}

# run_directory NAME: a new directory below target/, owned by the servers' user and removed at the end. Sets RUN_DIR.
# Where that user cannot get at the checkout (below /root, say), both it and Postgres move to a temporary directory.
RUN_DIRS=()
run_directory() {
    mkdir -p "$WORK/clusters"
    RUN_DIR=$(mktemp -d "$WORK/clusters/$1.XXXX")
    RUN_DIRS+=("$RUN_DIR")
    if is_root; then
        chown "$SERVER_USER:" "$RUN_DIR"
        if ! (cd / && as_server test -w "$RUN_DIR" && as_server test -x "$PG_BINDIR/postgres") 2>/dev/null; then
            RUN_DIR=$(mktemp -d "${TMPDIR:-/tmp}/pg_notary.XXXX")
            RUN_DIRS+=("$RUN_DIR")
            say "the user $SERVER_USER, as whom the server runs, cannot reach $WORK: using $RUN_DIR instead"
            chown "$SERVER_USER:" "$RUN_DIR"
            # A second cluster uses the copy of the first.
            if [[ $PG_BINDIR == "$WORK"/* ]]; then
                cp -R "$WORK/pg/$PG_MAJOR" "$RUN_DIR/pg"
                chmod -R go+rX "$RUN_DIR/pg"
                PG_BINDIR=$RUN_DIR/pg${PG_BINDIR#"$WORK/pg/$PG_MAJOR"}
            fi
        fi
    fi
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
new_secret() { od -An -tx1 -N32 /dev/urandom | tr -d ' \n'; }

# cluster_start NAME [LINE...]: a new cluster with these lines in its postgresql.conf. Exports PGHOST, PGPORT, PGUSER and
# PGDATABASE: those of the cluster that was started last. The secret is in the server's environment and nowhere else, unless
# the caller has chosen one.
CLUSTER_SECRET=
CLUSTER_PIDS=()
cluster_start() {
    run_directory "$1"
    shift
    local data=$RUN_DIR/data sockets=$RUN_DIR/s pid
    CLUSTER_LOG=$RUN_DIR/log
    # A socket's path has room for about 100 characters.
    if [ "${#sockets}" -gt 80 ]; then
        sockets=$(mktemp -d /tmp/pg_notary.XXXX)
        RUN_DIRS+=("$sockets")
    else
        mkdir "$sockets"
    fi
    chmod 700 "$sockets"
    : >"$CLUSTER_LOG"
    if is_root; then chown "$SERVER_USER:" "$sockets" "$CLUSTER_LOG"; fi

    unset PGDATA PGHOSTADDR PGSERVICE PGPASSWORD PGPASSFILE PGOPTIONS PGSSLMODE PGTZ PGCLIENTENCODING
    export PGHOST=$sockets PGPORT PGUSER=postgres PGDATABASE=postgres
    PGPORT=$(free_port)

    # Whoever reaches the socket is trusted, and only the owner of its directory does.
    (cd "$RUN_DIR" && as_server "$PG_BINDIR/initdb" --pgdata "$data" --username postgres --auth trust \
        --no-locale --encoding UTF8 --no-sync >"$RUN_DIR/initdb.log" 2>&1) ||
        { cat "$RUN_DIR/initdb.log" >&2; die "initdb failed"; }
    {
        echo "listen_addresses = ''"
        echo "unix_socket_directories = '$sockets'"
        echo "port = $PGPORT"
        echo "shared_preload_libraries = 'pg_notary'"
        [ $# = 0 ] || printf '%s\n' "$@"
    } >>"$data/postgresql.conf"

    (
        cd "$RUN_DIR" || exit
        INTEGRITY_HMAC_SECRET=${CLUSTER_SECRET:-$(new_secret)}
        export INTEGRITY_HMAC_SECRET
        exec_server "$PG_BINDIR/postgres" -D "$data"
    ) </dev/null >>"$CLUSTER_LOG" 2>&1 &
    pid=$!
    CLUSTER_PIDS+=("$pid")
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        "$PG_BINDIR/pg_isready" -q && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$CLUSTER_LOG" >&2
    die "the server did not start"
}

# cluster_stop PID
cluster_stop() {
    local pid=$1 tries
    # SIGQUIT is an immediate shutdown: the postmaster ends its children, by force after five seconds, and then itself.
    kill -QUIT "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 150; tries++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

cleanup() {
    # A second signal does not stop the tidying up.
    trap '' HUP INT TERM
    end_step
    local pid
    for pid in "${CLUSTER_PIDS[@]}"; do cluster_stop "$pid"; done
    CLUSTER_PIDS=()
    [ "${#RUN_DIRS[@]}" = 0 ] || rm -rf "${RUN_DIRS[@]}"
}
