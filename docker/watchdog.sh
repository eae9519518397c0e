#!/bin/sh
# Run `reelkeeper watchdog` every five minutes, as cron would. /tmp/watchdog-looked has the time of the last check that
# could be made, with exit code 0 (all is well) or 10 (something was reported); the healthcheck tests its age.
set -eu
trap 'kill "${resting:-}" 2>/dev/null || :; exit 0' TERM INT
while :; do
  code=0
  reelkeeper watchdog || code=$?
  case $code in 0 | 10) touch /tmp/watchdog-looked ;; esac
  sleep "${WATCHDOG_SECONDS:-300}" &
  resting=$!
  wait "$resting"
done
