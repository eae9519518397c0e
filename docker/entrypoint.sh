#!/bin/sh
# Prefect takes its secrets from the environment alone: give each file prefect_* under REELKEEPER_SECRETS_DIR to what
# is run here, under its name. So a secret stands neither in argv nor in what `docker inspect` shows. Reelkeeper reads
# its own files itself.
set -eu
for file in "$REELKEEPER_SECRETS_DIR"/prefect_*; do
  [ -e "$file" ] || continue
  name=$(basename "$file" | tr '[:lower:]' '[:upper:]')
  value=$(cat "$file")
  [ -n "$value" ] || { echo "$file is empty: see docker/secrets.sh" >&2; exit 2; }
  export "$name=$value"
done
exec "$@"
