"""`dispatch_jobs`: jobs are really run, no more at once than Prefect's limit, and reported."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from prefect.client.base import PrefectHttpxSyncClient
from prefect.client.orchestration import get_client
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

import tasks.jobs
from flows.dispatch_jobs import dispatch_jobs
from reelkeeper.errors import PartialFailure
from reelkeeper.model.jobs import GLOBAL_LIMIT, JobState
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import jobs
from tests.adapters.providers.formats import FILES, FORMATS
from tests.doubles.provider import TOKEN, ProviderDouble
from tests.flows.scenes import Scene
from tests.operations.shop import SMALL
from tests.policies import put_in_force
from tests.reading import DRAWN, as_read


@pytest.fixture
def queue(scene: Scene) -> Scene:
    """Three small videos that ann has asked for."""
    with transaction(scene.engine, "test") as session:
        ledger.grant(session, "ann", 10**6, "first", run_id="test")
    for prompt in ("a cat", "a dog", "a bird"):
        wanted = {"model": "a", "prompt": prompt, "width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}
        request = GenerationRequest.model_validate(wanted)
        assert isinstance(admit(scene.engine, request, user_id="ann", client_key=prompt), Queued)
    return scene


@pytest.fixture
def provider(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderDouble]:
    with ProviderDouble(tiny_clip.read_bytes()).serving() as double:
        monkeypatch.setenv("REELKEEPER_HTTP_URL", double.url)
        monkeypatch.setenv("REELKEEPER_HTTP_TOKEN", TOKEN)
        monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")
        settings.cache_clear()
        yield double


@pytest.mark.long
def test_one_worker_serves_several_vendors_each_with_its_own_models(
    scene: Scene, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        vendors = {
            name: stack.enter_context(FORMATS[name].double(tiny_clip.read_bytes()).serving())
            for name in ("fal", "runway", "openai")
        }
        told = {
            f"{name}_{what}": value
            for name, at in vendors.items()
            for what, value in (("url", at.url), ("token", TOKEN))
        }
        for name, value in {**told, "generator_hosts": FILES[0], "allow_private_addresses": "true"}.items():
            monkeypatch.setenv(f"REELKEEPER_{name.upper()}", value)
        settings.cache_clear()
        price = {"unit": "clip", "rates": [{"usd": "0.01"}], "source": "a price list", "read_on": "2026-11-29"}
        models = [
            {"model": f"made-by-{name}", "provider": name, "vendor_model": FORMATS[name].model, "price": price}
            for name in vendors
        ]
        put_in_force(scene.engine, book=PriceBook.model_validate({"models": models}))
        with transaction(scene.engine, "test") as session:
            ledger.grant(session, "ann", 10**6, "first", run_id="test")
        answers = [
            admit(
                scene.engine, {**SMALL, "model": f"made-by-{name}", "prompt": "a cat"}, user_id="ann", client_key=name
            )
            for name in vendors
        ]
        assert all(isinstance(answer, Queued) for answer in answers), answers
        report = dispatch_jobs(dry_run=False, until_idle=True)
        assert (report.succeeded, report.waiting) == (3, 0)
        assert {name: len(vendor.submitted) for name, vendor in vendors.items()} == dict.fromkeys(vendors, 1)
    with reading(scene.engine) as session:
        made = session.execute(sa.select(jobs.c.model, jobs.c.provider)).all()
    assert {tuple(row) for row in made} == {(f"made-by-{name}", name) for name in vendors}
    scene.world.check()


def states(scene: Scene) -> set[str]:
    with reading(scene.engine) as session:
        return set(session.execute(sa.select(jobs.c.state)).scalars())


def test_a_dry_run_says_who_comes_next_and_why_and_starts_nothing(queue: Scene) -> None:
    report = dispatch_jobs()
    assert (report.waiting, report.succeeded, len(report.next_jobs)) == (3, 0, 3)
    assert as_read(report.next_jobs[0], seconds=re.compile(r"-?[\d.]+(?= s\b)"), **DRAWN) == snapshot("""\
<run>: size: <seconds> s estimated, each of which counts as <seconds> s of waiting: <seconds> s;
  tier: pro: its size counts 1 / 2; backlog: job 1 of the user's waiting ones: its size counts
  once; wait: <seconds> s, the oldest job of all, next once it has waited <seconds> s and others
  have earned its estimate\
""")
    assert states(queue) == {JobState.QUEUED}


@pytest.mark.long
def test_a_run_makes_what_waits(queue: Scene) -> None:
    report = dispatch_jobs(dry_run=False, until_idle=True)
    assert (report.succeeded, report.waiting) == (3, 0)
    assert states(queue) == {JobState.SUCCEEDED}
    queue.world.check()


@pytest.mark.long
def test_no_more_run_at_once_than_prefects_limit_says(queue: Scene, provider: ProviderDouble) -> None:
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, 1)
        try:
            dispatch_jobs(dry_run=False, until_idle=True)
        finally:
            client.delete_global_concurrency_limit_by_name(GLOBAL_LIMIT)
    assert states(queue) == {JobState.SUCCEEDED}
    assert provider.most_at_once == 1


def test_prefects_limit_holds_while_its_server_does_not_answer(queue: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.jobs, "_LIMIT_SECONDS", 0.0)
    monkeypatch.setattr(
        PrefectHttpxSyncClient, "_has_connected", property(lambda _: True, lambda *_: None), raising=False
    )
    limit = tasks.jobs._limit(queue.world.workspace, 8)
    with get_client(sync_client=True) as client, disable_run_logger():
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, 1)
        try:
            assert limit() == 1
            began = time.monotonic()
            with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
                assert limit() == 1
            assert time.monotonic() - began < 30  # of the 73 s for which a run sends other requests again
            client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, 0)
            assert limit() == 0
        finally:
            client.delete_global_concurrency_limit_by_name(GLOBAL_LIMIT)
        assert limit() == 8


@pytest.mark.long
def test_a_run_in_which_jobs_are_given_up_fails_with_the_counts_and_the_rest_is_done(
    queue: Scene, provider: ProviderDouble
) -> None:
    provider.fails = "a cat"
    with pytest.raises(PartialFailure) as refused:
        dispatch_jobs(dry_run=False, until_idle=True, attempts=AttemptPolicy(most_attempts=1))
    assert as_read(refused.value) == snapshot("""\
2 jobs succeeded; 1 used up their attempts and are dead, 0 failed here and go to another worker.
  To try a dead one again: reelkeeper jobs retry JOB\
""")
    assert states(queue) == {JobState.SUCCEEDED, JobState.DEAD}
