"""`plan --show`: what a large plan comes to is said of all of it, however few items are listed."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.model import Action, Outcome, Verdict, Video
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.opening import open_store
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan
from reelkeeper.store.lifecycle.plans import record_outcomes
from tests.cli.conftest import Run

AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)
ITEMS = 1_200


def judged() -> Iterator[Verdict]:
    for n in range(ITEMS):
        video = Video(f"v{n}", "ann", "free", AS_OF, 0, False, 1_000_000, "h264", None, n + 1, 1)
        yield Verdict(video, Action.COMPRESS if n < 100 else Action.RETIRE, "cold")


@pytest.fixture
def plan_id(configured: Settings, migrated_file: Path) -> str:
    configured.state_dir.mkdir(parents=True)
    shutil.copyfile(migrated_file, configured.state_dir / "store.sqlite3")
    with open_store(configured) as engine:
        plan = begin_plan(engine, "tier_storage", {}, AS_OF, "run")
        add_verdicts(engine, plan, judged(), lambda _: "cold", lambda _: (1_000, 2_000))
    return plan


def test_all_of_a_large_plan_is_counted_and_priced(reelkeeper: Run, ask: Callable[..., Any], plan_id: str) -> None:
    said = " ".join(reelkeeper("plan", "--show", plan_id, "--limit", 3).output.split())
    assert f"and 1,197 more: reelkeeper plan --show {plan_id} --limit 1200" in said
    assert "In all: 100 to compress, 1,100 to retire; 1.2 GB, $1.20 a month, $2.40 net." in said
    assert "Expected until it is done; net is over the rest of" in said
    assert len(ask("plan", "--show", plan_id)["items"]) == ITEMS


def test_what_became_of_all_of_it_is_said(reelkeeper: Run, configured: Settings, plan_id: str) -> None:
    with open_store(configured) as engine, transaction(engine, "test") as session:
        done = [Outcome(f"v{n}", "retired", "", 1_000_000, 0, n + 1) for n in range(100, ITEMS)]
        record_outcomes(session, plan_id, [*done, Outcome("v0", "compressed", "", 1_000_000, 400_000, 1)])
    said = " ".join(reelkeeper("plan", "--show", plan_id, "--limit", 3).output.split())
    assert "In all: 1 compressed, 99 not done, 1,100 retired; 1.1 GB less" in said
    assert "Expected until" not in said
