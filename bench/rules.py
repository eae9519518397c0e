"""Benchmark the rules: the time of a verdict against merely creating one, and of their tests against the promise."""

import re
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from bench.report import Row
from reelkeeper.model import Action, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason, verdicts
from reelkeeper.rules.lifecycle.selection import for_tiering, largest_first

VIDEOS = 100_000
ROUNDS = 5
TESTS_SECONDS = 10.0
AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)


def measure() -> list[Row]:
    """Time 100,000 verdicts in microseconds each, and the tests of the rules in seconds."""
    catalogue = [
        Video(
            f"v{n}",
            f"u{n % 999}",
            ("free", "pro")[n % 2],
            AS_OF - timedelta(days=n % 60),
            n % 9,
            False,
            n,
            "h264",
            None,
            n,
            1,
        )
        for n in range(VIDEOS)
    ]
    policy = LifecyclePolicy()
    judged = list(verdicts(catalogue, policy, SHIPPED, AS_OF, "recipe"))
    bare = _best(lambda: (Verdict(video, Action.KEEP, "bare") for video in catalogue))
    ours = _best(lambda: verdicts(catalogue, policy, SHIPPED, AS_OF, "recipe"))
    chosen = _best(lambda: largest_first(for_tiering(judged), policy.compress_limit))
    worded = _best(lambda: map(reason, judged))
    tests, command = _tests()
    return [
        Row("judge a video; floor: make a verdict", ours, bare, ours / bare, None, "us"),
        Row("choose for tier_storage; the same floor", chosen, bare, chosen / bare, None, "us"),
        Row("say why; the same floor", worded, bare, worded / bare, None, "us"),
        Row("tests of the rules, time by pytest", tests, TESTS_SECONDS, tests / TESTS_SECONDS, 1.0, "s"),
        Row("CPU, with the start of Python", command, TESTS_SECONDS, command / TESTS_SECONDS, None, "s"),
    ]


def _best(made: Callable[[], Iterable[object]]) -> float:
    """Consume an iterable several times; return the best time in microseconds per item."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        deque(made(), maxlen=0)
        times.append(time.perf_counter() - started)
    return min(times) / VIDEOS * 1e6


def _tests() -> tuple[float, float]:
    """Run the tests of the rules; return pytest's own figure, and the CPU time of the whole command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "tests/rules"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = re.findall(r"passed.* in ([\d.]+)s", said)
    return float(took[-1]), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
