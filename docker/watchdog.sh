#!/bin/sh
# What cron would do on a machine: `reelkeeper watchdog` every five minutes. /tmp/watchdog-looked is as old as the last
# time it could look (exit 0), or could look and had something to tell (exit 10); the healthcheck asks its age.
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
