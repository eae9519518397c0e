"""Run a worker in its own process: `python -m tests.flows.worker_process tier_storage|transcode_videos`.

It says "ready" when everything is imported, begins at the first line on its input, and a helper waits for a plan.
"""

import json
import signal
import sys
import time

from flows.tier_storage import tier_storage
from flows.transcode_videos import transcode_videos
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import open_store, reading
from reelkeeper.store.lifecycle.plan_progress import under_way


def main(flow: str) -> None:
    """Run the flow, and say how many videos this process has settled."""
    say("ready")
    sys.stdin.readline()
    if flow == "tier_storage":
        report = tier_storage(dry_run=False)
        say(
            json.dumps(
                {"plan_id": report.plan.id, "done": {outcome.outcome: outcome.objects for outcome in report.done}}
            )
        )
        return
    with open_store(settings()) as engine:
        while True:
            with reading(engine) as session:
                if under_way(session, "tier_storage"):
                    break
            time.sleep(0.05)
    helped = transcode_videos(dry_run=False)
    done = {outcome.outcome: outcome.objects for outcome in helped.done}
    say(json.dumps({"plan_id": helped.plan_id, "left": helped.left, "done": done}))


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    main(sys.argv[1])
