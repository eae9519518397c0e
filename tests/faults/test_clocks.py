"""The window at the service's keys, as docs/safety.md states it, with a host whose clock is wrong by minutes.

The bucket's server and the service run on true time; the purge runs under libfaketime, minutes ahead or behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from reelkeeper.model import BlobState, VideoState
from tests.buckets import BUCKET
from tests.faults.conftest import MakeWorld
from tests.faults.world import World

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
RUN = """
import json, sys
from tests.faults import scenarios
from tests.faults.world import Address
scenarios.child("purge", Address(**json.loads(sys.argv[1])), sys.argv[2], json.loads(sys.argv[3]))
"""
MINUTES = (-4, 0, 4)
IN_TIME, TOO_LATE = 25, 31  # seconds between the HEAD and the DELETE
NEW = b"a new video of the service's"


def key_of(world: World) -> str:
    return f"{world.address.prefix}ann/v1.mp4"


@contextmanager
def asleep_after_its_head(world: World, minutes: int) -> Iterator[subprocess.Popen[bytes]]:
    """Purge the service's video on a host with a wrong clock, which falls asleep between its HEAD and its DELETE."""
    due = world.video("v1", key=key_of(world), state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    arguments = {"plan": world.plan("purge_retired", "purge", [due]), "blobs": [due]}
    wrong = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{minutes * 60:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    words = json.dumps(asdict(world.address)), "purge.delete_signed.before=stop", json.dumps(arguments)
    with subprocess.Popen([sys.executable, "-c", RUN, *words], env=os.environ | wrong) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.parametrize("minutes", MINUTES)
def test_a_delete_is_refused_30_s_after_its_head_by_the_buckets_clock(make_world: MakeWorld, minutes: int) -> None:
    """A DELETE sent in time works; one sent later hits nothing that the service has stored since the HEAD."""
    assert LIBRARY, "libfaketime is missing: apt-get install libfaketime"
    early, late = make_world(), make_world()
    with asleep_after_its_head(early, minutes) as prompt, asleep_after_its_head(late, minutes) as sleeper:
        began = [_stopped_at(process) for process in (prompt, sleeper)]
        late.double.client.put_object(Bucket=BUCKET, Key=key_of(late), Body=NEW)
        for process, start, seconds in ((prompt, began[0], IN_TIME), (sleeper, began[1], TOO_LATE)):
            time.sleep(max(0.0, start + seconds - time.monotonic()))
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 0
    assert early.workspace.bucket.head(key_of(early)) is None
    assert late.workspace.bucket.read_bytes(key_of(late)) == NEW
    assert [request.status for request in late.double.sent("DeleteObject") if request.key == key_of(late)] == [403]


def _stopped_at(process: subprocess.Popen[bytes]) -> float:
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "the purge ended before its DELETE"
    return time.monotonic()
