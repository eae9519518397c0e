#!/bin/sh
# Create the secret files that compose.yaml reads, beside it, with random passwords. Existing files are kept, so it is safe
# to run again. Containers read the files as users of their own, hence a closed folder with readable files.
set -eu
umask 022
folder=$(cd "$(dirname "$0")" && pwd)/secrets
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -e "$folder/$1" ] || printf %s "$2" >"$folder/$1"; }

keep postgres_password "$(random)"
keep prefect_database_password "$(random)"
keep reelkeeper_database_password "$(random)"
keep prefect_auth "admin:$(random)"
keep reelkeeper_database_url "postgresql+psycopg://reelkeeper:$(cat "$folder/reelkeeper_database_password")@postgres:5432/reelkeeper"

# Secrets that only you know. The first two are required; an empty file means that a secret is not set.
for name in s3_access_key_id s3_secret_access_key slack_bot_token slack_webhook_url slack_signing_secret second_sink_url \
  watchdog_ping_url cloudflare_api_token event_queue_token cache_purge_token generator_token generator_webhook_secret \
  fal_token fal_webhook_secret replicate_token replicate_webhook_secret runway_token openrouter_token openrouter_webhook_secret \
  openai_token comfyui_token http_token http_webhook_secret; do
  keep "reelkeeper_$name" ""
done

for name in s3_access_key_id s3_secret_access_key; do
  [ -n "$(cat "$folder/reelkeeper_$name")" ] || echo "Write the R2 token's into $folder/reelkeeper_$name"
done
[ -e "$folder/../reelkeeper.env" ] || echo "Write REELKEEPER_R2_ACCOUNT_ID=... and REELKEEPER_BUCKET=... into $(dirname "$folder")/reelkeeper.env"
echo "Prefect's user and password are in $folder/prefect_auth"
