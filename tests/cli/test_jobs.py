"""`jobs`: a dead job shows its error, and can be queued again."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import open_store
from tests.cli.conftest import Run
from tests.operations.books import make_user
from tests.operations.queue import enqueue, row
from tests.reading import as_read


@pytest.fixture
def jobs(reelkeeper: Run) -> Run:
    """A dead job, one that waits, and one at work."""
    settings.cache_clear()
    with open_store(settings()) as engine:
        make_user(engine, "ann")
        enqueue(engine, {**row("runs")})
        claim(engine, "w", [None], limit=1)
        enqueue(engine, {**row("dead"), "state": JobState.DEAD, "error": "it broke"}, row("waits"))
        engine.dispose()
    return reelkeeper


@pytest.mark.long
def test_a_dead_job_says_why_and_is_tried_again(jobs: Run, ask: Callable[..., Any]) -> None:
    assert "it broke" in jobs("queue", "--dead").stdout
    assert [(item["id"], item["error"]) for item in ask("queue", "--dead")["dead"]] == [("dead", "it broke")]
    assert ask("jobs", "retry", "dead") == {"redriven": ["dead"]}
    assert ask("queue", "--dead")["dead"] == []
    assert "is queued" in jobs("jobs", "retry", "dead", exit_code=9).stderr
    jobs("jobs", "retry", "none", exit_code=8)
    jobs("jobs", "retry", "waits", "--buy-again", exit_code=1)  # nobody said yes


@pytest.mark.long
def test_a_job_that_waits_is_cancelled_and_one_at_work_is_asked_to_stop(jobs: Run, ask: Callable[..., Any]) -> None:
    assert ask("jobs", "cancel", "waits", "runs") == {"waits": "cancelled", "runs": "running"}
    assert as_read(jobs("jobs", "cancel", "runs").stdout) == snapshot("runs: asked to stop.")


def test_one_of_several_jobs_stops_no_other_and_is_named(jobs: Run, ask: Callable[..., Any]) -> None:
    told = jobs("jobs", "retry", "none", "dead", "waits", "dead", "--json", exit_code=6)
    assert json.loads(told.stdout) == {"redriven": ["dead"]}
    assert all(f"{job_id}: " in told.stderr for job_id in ("none", "waits"))
    told = jobs("jobs", "cancel", "none", "dead", "--json", exit_code=6)
    assert json.loads(told.stdout) == {"dead": "cancelled"}
    assert ask("queue")["counts"]["queued"] == 1
