"""Benchmark the delivery of webhook events to an endpoint that takes 100 ms, alone and beside one that hangs."""

import time

from bench.report import Row
from bench.stores import sqlite
from reelkeeper.model.alerts import EventType, Happened
from reelkeeper.operations.alerts import webhooks
from reelkeeper.store.alerts import webhooks as rows
from reelkeeper.store.core.engine import transaction
from tests.doubles.receiver import TRICKLE, Receiver

EVENTS, ANSWER_SECONDS, PROMISED = 600, 0.1, 60.0  # events a second


def measure() -> list[Row]:
    """Measure the seconds for 1,000 events of 1,000 videos: alone, and beside an endpoint that hangs."""
    with Receiver().serving() as receiver:
        alone, beside = _seconds(receiver), _seconds(receiver, hangs=True)
    what = "1,000 events, 100 ms each"
    return [
        Row(what, alone, "60 a second", 1_000 / PROMISED, 1.0),
        Row(f"{what}, beside an endpoint that hangs", beside, "alone", alone, 1.15),
    ]


def _seconds(receiver: Receiver, *, hangs: bool = False) -> float:
    receiver.seconds = {"/live": ANSWER_SECONDS}
    receiver.always = {"/hangs": TRICKLE}
    receiver.got.clear()
    with sqlite() as (engine, _):
        for path in ("/hangs", "/live") if hangs else ("/live",):
            _, secret = webhooks.add(engine, receiver.url(path), allow_private=True, author="bench")
            receiver.secrets[path] = [secret]
        with transaction(engine, "bench") as session:
            rows.put(session, [Happened(EventType.VIDEO_CHANGED, f"v{n}", {"of": f"v{n}"}) for n in range(EVENTS)])
        began = time.monotonic()
        webhooks.deliver(engine, allow_private=True, seconds=120, timeout_seconds=5)
    return (receiver.got["/live"][EVENTS - 1].at - began) / EVENTS * 1_000
