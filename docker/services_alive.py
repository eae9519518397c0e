#!/usr/bin/env python
"""Check that Prefect's background services are active. They serve no HTTP, but Redis knows when each was last active.

Exit code 0 if within the last minute the recorder of task runs read its stream, and the worker of the scheduled
services (schedules, late runs, vacuum) gave a sign of life; else 1, with the silent ones.
"""

import os
import sys
import time

import redis

MAX_SECONDS = 60.0
NEVER = float("inf")


def seconds_since(url: dict[str, str]) -> dict[str, float]:
    """Return the seconds since each service was last active."""
    with redis.from_url(url["messages"]) as messages, redis.from_url(url["docket"]) as docket:
        try:
            readers = messages.xinfo_consumers("events", "task-run-recorder")
        except redis.ResponseError:  # the stream or group does not exist yet
            readers = []
        beats = docket.zrevrange("prefect:workers", 0, 0, withscores=True)
        return {
            "recorder of task runs": min((reader["idle"] / 1000 for reader in readers), default=NEVER),
            "worker of the services": time.time() - beats[0][1] if beats else NEVER,
        }


if __name__ == "__main__":
    found = seconds_since(
        {"messages": os.environ["PREFECT_REDIS_MESSAGING_URL"], "docket": os.environ["PREFECT_SERVER_DOCKET_URL"]}
    )
    late = [f"{what}: silent for {seconds:.0f} s" for what, seconds in found.items() if seconds > MAX_SECONDS]
    sys.exit("; ".join(late) or 0)
