"""Requests that wait for one another, on PostgreSQL: what the first of them has changed, the next has not seen before.

SQLite lets nobody look while another writes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import sqlalchemy as sa

from reelkeeper.model.requests import Admission, Cached, GenerationRequest, Joined, Queued
from reelkeeper.operations.core import policies
from reelkeeper.operations.jobs.settle import Attempt, succeed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store import Session
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import cache_entries, deployment
from tests.databases import until_waiting
from tests.operations.asking import ask, claim, fox, make
from tests.operations.books import DOLLAR, make_user


@pytest.fixture
def ann(postgresql_engine: sa.Engine) -> sa.Engine:
    make_user(postgresql_engine, "ann", DOLLAR, tier="pro")
    return postgresql_engine


def asked_behind(
    engine: sa.Engine, session: Session, *keys: str, request: GenerationRequest | None = None
) -> list[Admission]:
    """Ask under these keys at once, and let `session`, which they wait for, go first."""
    with ThreadPoolExecutor(len(keys)) as pool:
        asked = [pool.submit(ask, engine, key, request) for key in keys]
        until_waiting(engine, len(keys))
        session.commit()
        return [answer.result(timeout=60) for answer in asked]


def ids(answers: Sequence[Admission]) -> list[str]:
    return [answer.job_id for answer in answers if isinstance(answer, Queued | Joined | Cached)]


def test_a_concurrent_equal_request_is_joined_and_a_repeated_key_gets_the_same_job(ann: sa.Engine) -> None:
    with transaction(ann, "test") as session:
        session.execute(sa.select(deployment.c.id).with_for_update())
        first, again, other = answers = asked_behind(ann, session, "k1", "k1", "k2")
    assert len(ids(answers)) == 3
    assert ids([first]) == ids([again]) != ids([other])
    assert {type(first), type(other)} == {Queued, Joined}


def test_a_key_that_comes_twice_at_one_moment_is_answered_from_the_cache_alike(ann: sa.Engine) -> None:
    job = ask(ann, "k1")
    assert isinstance(job, Queued)
    make(ann, job.job_id)
    succeed(ann, Attempt(job.job_id, claim(ann, job.job_id)), run_id="test")
    with transaction(ann, "test") as session:
        session.execute(sa.update(cache_entries).values(hits=0))
        first, again = asked_behind(ann, session, "k2", "k2")
    assert first == again
    assert isinstance(first, Cached)


def test_a_job_is_sold_at_prices_that_were_changed_while_it_waited(ann: sa.Engine) -> None:
    before, dearer = ask(ann, "k1"), PriceBook(margin_percent=Decimal(100))
    with transaction(ann, "test") as session:
        policies.put_in_force(session, DEFAULTS.overridden(book=dearer), after=0, author="test", reason="a test")
        (after,) = asked_behind(ann, session, "k2", request=fox(seed=1))
    assert isinstance(before, Queued)
    assert isinstance(after, Queued)
    assert after.price_microusd > before.price_microusd
    assert after.price_book == dearer.mark
