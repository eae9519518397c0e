"""The place and the wait of a job: exact in a short queue, of lately in a long one, and of no interest to a refusal."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.model.requests import Declined, Queued, RefusedFor
from reelkeeper.operations.jobs.follow import follow
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.store.jobs.queue import SHORT
from tests.databases import statements
from tests.jobs import put, waiting
from tests.operations.asking import ask
from tests.operations.books import DOLLAR, make_user
from tests.operations.queue import sign
from tests.policies import put_in_force

MORE = SHORT + 200


@pytest.fixture
def ann(engine: sa.Engine) -> sa.Engine:
    make_user(engine, "ann", DOLLAR, tier="pro")
    sign(engine)
    return engine


def test_places_in_a_long_queue_are_nearly_exact_and_of_lately(ann: sa.Engine) -> None:
    """A job a second, of 200 s or 300 s: at 48 s of rank for each, all short ones go first."""
    put_in_force(ann, admission=AdmissionPolicy(slots=1))
    began, half = datetime.now(UTC) - timedelta(hours=1), MORE // 2
    put(
        ann,
        (waiting(f"j{n}", began + timedelta(seconds=n), estimate_seconds=200.0 + n % 2 * 100) for n in range(MORE)),
    )
    a_minute = 30  # of each kind
    for number, ahead in ((0, 0), (MORE - 2, half - 1), (1, half), (MORE - 1, MORE - 1)):
        told = follow(ann, f"j{number}")
        assert told.place == pytest.approx(ahead + 1, abs=a_minute)
        waits = min(ahead, half) * 200 + max(ahead - half, 0) * 300
        assert told.wait_seconds == pytest.approx(waits, abs=a_minute * 300)
    put(ann, (waiting(f"k{n}", began, estimate_seconds=1.0) for n in range(9)))
    with statements(ann) as sent:
        for _ in range(20):
            follow(ann, "j0")
    assert sum("GROUP BY" in statement for statement in sent) <= 1


@pytest.mark.parametrize("waiting_jobs", [0, 9])
def test_a_new_job_is_told_its_place_and_a_refused_one_looks_at_no_queue(ann: sa.Engine, waiting_jobs: int) -> None:
    make_user(ann, "poor", 100)
    for number in range(waiting_jobs):
        put(ann, [waiting(f"j{number}", datetime.now(UTC), estimate_seconds=600.0)])
    with statements(ann) as sent:
        refused = ask(ann, "k1", user="poor")
    assert isinstance(refused, Declined)
    assert refused.code == RefusedFor.CREDITS
    assert not any("sum(" in statement and "estimate_seconds" in statement for statement in sent)
    queued = ask(ann, "k2")
    assert isinstance(queued, Queued)
    assert (queued.place, queued.wait_seconds) == (1, 0)  # the others take longer
