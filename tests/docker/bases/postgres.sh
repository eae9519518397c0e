#!/bin/sh
# What the entrypoint of docker.io/library/postgres does of what compose.yaml uses: make the databases on an empty volume,
# reachable by a socket alone, run the scripts there, and then serve.
set -eu
data=/var/lib/postgresql/data
if [ ! -e "$data/PG_VERSION" ]; then
  # shellcheck disable=SC2086  the arguments are words
  initdb --pgdata="$data" --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
  pg_ctl --pgdata="$data" -w -o "-c listen_addresses=''" start
  for script in /docker-entrypoint-initdb.d/*.sql; do
    psql -v ON_ERROR_STOP=1 --no-psqlrc --username=postgres --file="$script"
  done
  pg_ctl --pgdata="$data" -w -m fast stop
fi
exec postgres -D "$data" -c "listen_addresses=*"
