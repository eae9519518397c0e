"""A service whose user requests small videos, and a worker that makes them."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from reelkeeper.adapters.providers import Generator, HttpProvider, RemoteGenerator
from reelkeeper.model.jobs import End
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.worker import Shift, work
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.store.billing import spend_counters
from reelkeeper.store.core.engine import now, reading
from tests.doubles.provider import TOKEN, ProviderDouble
from tests.faults.world import World
from tests.operations.books import DOLLAR, balances

PATIENCE = AttemptPolicy(most_attempts=2)


SMALL: Final = {"model": "a", "width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}


def key_of(prompt: str) -> str:
    """Return the key that a prompt is asked for with."""
    return prompt.replace(" ", "-")


def ask(world: World, *prompts: str) -> list[str]:
    """Let ann ask for small videos; return the ids of the jobs."""
    answers = [
        admit(
            world.workspace.engine,
            GenerationRequest.model_validate({**SMALL, "prompt": prompt}),
            user_id="ann",
            client_key=key_of(prompt),
        )
        for prompt in prompts
    ]
    assert all(isinstance(answer, Queued) for answer in answers), answers
    return [str(answer.job_id) for answer in answers if isinstance(answer, Queued)]


def http(provider: ProviderDouble, model: str | None = None) -> RemoteGenerator:
    return RemoteGenerator(
        HttpProvider(provider.url, TOKEN, allow_private=True, timeout_seconds=60.0), model=model, poll_seconds=0.05
    )


def run(world: World, generator: Generator, **how: Any) -> Counter[End]:  # noqa: ANN401  as Shift and work take them
    others = {name: how.pop(name) for name in ("limit", "heartbeat_seconds") if name in how}
    shift = Shift(**{"slots": 4, "seconds": 60, "until_idle": True, "attempts": PATIENCE, **how})
    scratch = Path(world.address.folder) / "scratch"
    return work(world.workspace, generator, shift, run_id="run", scratch=scratch, **{"limit": lambda: 99, **others})


def spent(world: World) -> int:
    available, held = balances(world.workspace.engine, "ann")
    assert held == 0, "credits are held of a job that is over"
    return DOLLAR - available


def budget_spent(world: World) -> int:
    with reading(world.workspace.engine) as session:
        return spend_counters.so_far(session, now(session)).today_microusd


def in_a_while(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a condition holds, while a worker is at work."""

    def watch() -> None:
        deadline = time.monotonic() + 240
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
