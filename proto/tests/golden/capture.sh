#!/usr/bin/env bash
# Records golden captures of one PostgreSQL version: pgNN-*.hex next to this script.
#
#   PG_BINDIR=/usr/lib/postgresql/17/bin proto/tests/golden/capture.sh
#
# It starts a throwaway cluster without TCP in a temporary directory, follows it with one recorder for each set of
# pgoutput options, runs history.sql, and stops the cluster. Run as root it uses the account in PG_USER (postgres) for
# the server, which refuses root. A new capture differs from an old one in identifiers, positions and times only.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bindir=${PG_BINDIR:?set PG_BINDIR to the directory of the PostgreSQL binaries}
recorders_wait_seconds=30

as_server=()
if [ "$(id -u)" = 0 ]; then
    as_server=(runuser -u "${PG_USER:-postgres}" --)
fi

cargo build --quiet --manifest-path "$here/../../Cargo.toml" --example capture
target=$(cargo metadata --format-version 1 --no-deps --manifest-path "$here/../../Cargo.toml" |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
capture=$target/debug/examples/capture

major=$("$bindir/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
work=$(mktemp -d)
chmod 755 "$work"
recorders=()
cleanup() {
    for pid in "${recorders[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    "${as_server[@]}" "$bindir/pg_ctl" -D "$work/run/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/run"
if [ "$(id -u)" = 0 ]; then
    chown "${PG_USER:-postgres}" "$work/run"
fi
cd "$work/run"
"${as_server[@]}" "$bindir/initdb" -D data -U postgres -A trust -E UTF8 --locale=C --no-sync >initdb.log
cat >>data/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '$work/run'
wal_level = logical
logical_decoding_work_mem = '64kB'
max_prepared_transactions = 10
autovacuum = off
fsync = off
timezone = 'UTC'
CONF
"${as_server[@]}" "$bindir/pg_ctl" -D data -l server.log -w start >/dev/null
psql() {
    "$bindir/psql" -X -q -v ON_ERROR_STOP=1 -h "$work/run" -U postgres -d golden "$@"
}
"$bindir/createdb" -h "$work/run" -U postgres golden
psql -f "$here/schema.sql"
if [ "$major" -ge 18 ]; then
    psql -c "ALTER PUBLICATION \"golden, 'a' \"\"b\"\"\" SET (publish_generated_columns = stored)"
    psql -c "ALTER PUBLICATION golden_root SET (publish_generated_columns = stored)"
fi

plain="golden, 'a' \"b\""
record() { # NAME PUBLICATIONS OPTIONS
    "$capture" "$work/run/.s.PGSQL.5432" golden "golden_${1//-/_}" "$2" "$3" >"$work/pg$major-$1.hex" &
    recorders+=($!)
}
record v1-text "$plain" proto=1,messages
record v1-binary-root "$plain|golden_root" proto=1,messages,binary
record v2-streaming "$plain" proto=2,messages,streaming
if [ "$major" -ge 15 ]; then
    record v3-two-phase-binary "$plain" proto=3,messages,binary,streaming,two_phase
fi
if [ "$major" -ge 16 ]; then
    record v4-parallel "$plain" proto=4,messages,parallel,two_phase,any_origin
fi

deadline=$((SECONDS + recorders_wait_seconds))
until [ "$(psql -Atc "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")" = "${#recorders[@]}" ]; do
    for pid in "${recorders[@]}"; do
        kill -0 "$pid" || { echo "a recorder has died" >&2; exit 1; }
    done
    [ "$SECONDS" -lt "$deadline" ] || { echo "the recorders did not start" >&2; cat server.log >&2; exit 1; }
    sleep 0.1
done
psql -f "$here/history.sql" >/dev/null
for pid in "${recorders[@]}"; do
    wait "$pid"
done
recorders=()
cp "$work"/pg"$major"-*.hex "$here/"
wc -lc "$here"/pg"$major"-*.hex
