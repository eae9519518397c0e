#!/bin/sh
# Prefect reads secrets only from the environment: export each file prefect_* in REELKEEPER_SECRETS_DIR under its name
# and run the given command. So no secret shows in argv or in `docker inspect`. Reelkeeper reads its own secret files.
set -eu
for file in "$REELKEEPER_SECRETS_DIR"/prefect_*; do
  [ -e "$file" ] || continue
  name=$(basename "$file" | tr '[:lower:]' '[:upper:]')
  value=$(cat "$file")
  [ -n "$value" ] || { echo "$file is empty: see docker/secrets.sh" >&2; exit 2; }
  export "$name=$value"
done
exec "$@"
