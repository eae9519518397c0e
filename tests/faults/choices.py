"""Record which offer the rule chose for each job, and from what, in this process and in children that are killed."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reelkeeper.operations.jobs import routing
from reelkeeper.rules.jobs.routing import Choice, Offered, Record, RoutingPolicy


class Chosen(NamedTuple):
    """A choice: by which process, for the job of which prompt, of which offers, by which policy."""

    process: int
    prompt: str
    offers: list[Offered]
    policy: RoutingPolicy
    provider: str | None


def record(file: Path, replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Write a line to `file` for each choice from now on. `replace` sets an attribute of a module."""
    read_offers, here = routing._offers, threading.local()
    choose: Callable[..., Choice] = routing.best_of  # type: ignore[attr-defined]  # the name by which it calls the rule

    def offers_of(session: Any, wanted: routing.Wanted, *others: Any) -> list[Offered]:  # noqa: ANN401  as it takes them
        here.prompt = wanted.request.prompt
        return read_offers(session, wanted, *others)

    def chosen(offers: list[Offered], policy: RoutingPolicy) -> Choice:
        choice = choose(offers, policy)
        line = [os.getpid(), here.prompt, offers, policy.model_dump(mode="json"), choice.provider]
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        return choice

    replace(routing, "_offers", offers_of)
    replace(routing, "best_of", chosen)


def read(file: Path) -> list[Chosen]:
    """Read the choices, in their order."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        Chosen(
            process,
            prompt,
            [Offered._make([*offer[:2], Record(*offer[2]), *offer[3:]]) for offer in offers],
            RoutingPolicy.model_validate(policy),
            provider,
        )
        for process, prompt, offers, policy, provider in found
    ]
