"""Jobs that a provider refuses, loses or cannot look up: who pays, who is notified, and nothing is sent twice."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.providers import HttpProvider, LocalGenerator, RemoteGenerator
from reelkeeper.adapters.providers.transport import fraction
from reelkeeper.model.alerts import AlertState
from reelkeeper.model.jobs import End, JobState
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.jobs import claim, lanes, settle
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.tables import alerts, controls, jobs, vendor_jobs
from tests.doubles.provider import LOST, TOKEN, ProviderDouble
from tests.doubles.vendor import Vendor
from tests.faults.world import World
from tests.marks import marked
from tests.operations.queue import end_hold, end_wait, find, make_due
from tests.operations.shop import ask, budget_spent, http, run, spent
from tests.worlds import AtFailpoint

BUSY = (429, None, {"Retry-After": "90"})


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


def a_day_later(shop: World) -> None:
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-25 * 3600), due_at=Clock(-1)))


def days_later(shop: World) -> None:
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-49 * 3600), due_at=Clock(-1)))
        session.execute(sa.update(controls).values(updated_at=Clock(-49 * 3600)))


def test_a_full_provider_is_asked_again_when_it_said_and_no_attempt_is_used(
    shop: World, provider: ProviderDouble
) -> None:
    job_id, _ = ask(shop, "a cat", "a dog")
    provider.queue = [BUSY] * 3  # more than its attempts
    for _ in range(3):
        assert run(shop, http(provider), slots=1) == {End.RETRIED: 1}
        job = find(shop.workspace.engine, job_id)
        assert (job.state, job.attempts, job.provider_key) == (JobState.QUEUED, 0, None)
        with reading(shop.workspace.engine) as session:
            held = lanes.known(session)["http"].shut_seconds(now(session))
        assert 60 < held <= 99
        assert run(shop, http(provider)) == {}  # nor is another job sent
        end_hold(shop.workspace.engine, "http")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 2}
    assert len(provider.submitted) == 2


def test_a_job_whose_provider_cannot_be_reached_waits_and_stands_in_the_log(
    shop: World, provider: ProviderDouble, caplog: pytest.LogCaptureFixture
) -> None:
    (job_id,) = ask(shop, "a cat")
    nobody = HttpProvider("http://127.0.0.1:9", TOKEN, allow_private=True)
    provider.queue = [BUSY]
    assert run(shop, http(provider), slots=1) == {End.RETRIED: 1}  # of one that is full, nothing is said
    end_hold(shop.workspace.engine, "http")
    assert run(shop, RemoteGenerator(nobody), slots=1) == {End.RETRIED: 1}
    assert find(shop.workspace.engine, job_id).state == JobState.QUEUED
    lines = [line.getMessage() for line in caplog.records if line.name == "reelkeeper.operations.jobs.run"]
    assert [job_id in line for line in lines] == [True]


def test_a_job_that_no_provider_accepts_for_a_day_is_dead_and_free(shop: World, provider: ProviderDouble) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.queue = [BUSY] * 2
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    a_day_later(shop)
    end_hold(shop.workspace.engine, "http")
    assert run(shop, http(provider)) == {End.DEAD: 1}
    assert marked(find(shop.workspace.engine, job_id).error) == snapshot(
        "given up after 24 hours in which the provider took nothing; the last: the provider takes no more jobs at the moment: it answered 429, no reason given"
    )
    assert (spent(shop), budget_spent(shop)) == (0, 0)


def test_a_job_that_waits_for_a_full_provider_for_a_day_lives(
    shop: World, provider: ProviderDouble, at_failpoint: AtFailpoint
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.queue = [BUSY]
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    a_day_later(shop)
    end_hold(shop.workspace.engine, "http")
    at_failpoint("jobs.claim.after_commit", lambda: end_hold(shop.workspace.engine, "http", -60))  # held again
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    end_hold(shop.workspace.engine, "http")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert find(shop.workspace.engine, job_id).state == JobState.SUCCEEDED


@pytest.mark.parametrize("format_", ["fal", "runway"], indirect=True)
def test_a_job_that_waited_a_day_for_a_full_vendor_has_its_whole_time_there(
    vendor: Vendor, generator: RemoteGenerator, shop: World
) -> None:
    (job_id,) = ask(shop, "a cat")
    vendor.queue, vendor.looks = [BUSY], 3  # of the two, it runs at the first look
    assert run(shop, generator) == {End.RETRIED: 1}
    a_day_later(shop)
    end_hold(shop.workspace.engine, generator.name)
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert (len(vendor.submitted), vendor.cancelled) == (1, [])
    if timeout := vendor.posted_with[-1]["X-Fal-Request-Timeout"]:
        assert int(timeout) > 23 * 3600
    assert spent(shop) == find(shop.workspace.engine, job_id).price_microusd > 0


@pytest.mark.parametrize("format_", ["fal"], indirect=True)
def test_a_job_that_was_given_up_in_doubt_is_found_when_a_person_retries_it_days_later(
    vendor: Vendor, generator: RemoteGenerator, shop: World
) -> None:
    (job_id,) = ask(shop, "a cat")
    vendor.queue, vendor.hides_jobs = [LOST], True
    assert run(shop, generator) == {End.PARKED: 1}
    a_day_later(shop)
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(vendor_jobs).values(sent_at=Clock(-25 * 3600)))
    vendor.book[0]["at"] -= timedelta(hours=25)
    assert run(shop, generator) == {End.DEAD: 1}
    vendor.hides_jobs = False
    claim.redrive(shop.workspace.engine, job_id, author="bea")
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert len(vendor.submitted) == 1


@pytest.mark.parametrize("format_", ["fal"], indirect=True)
def test_a_cancelled_job_in_doubt_gives_its_credits_back_once_its_vendor_does_not_list_it(
    vendor: Vendor, generator: RemoteGenerator, shop: World
) -> None:
    (job_id,) = ask(shop, "a cat")
    vendor.queue, vendor.hides_jobs = [LOST], True
    assert run(shop, generator) == {End.PARKED: 1}
    assert settle.cancel(shop.workspace.engine, job_id, run_id="ann") == JobState.PARKED
    make_due(shop.workspace.engine)
    assert run(shop, generator) == {End.CANCELLED: 1}
    job = find(shop.workspace.engine, job_id)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd), "the vendor may charge for it"
    assert len(vendor.submitted) == 1


def test_a_job_that_was_claimed_before_a_freeze_of_a_day_has_its_whole_time_at_its_provider(
    shop: World, provider: ProviderDouble
) -> None:
    engine, provider.looks = shop.workspace.engine, 3
    ask(shop, "a cat")
    claimed = claim.claim(engine, "a worker", [None], limit=9)
    freeze(engine, by="eve", reason="a doubt")
    claim.hand_back(engine, claimed)
    a_day_later(shop)
    thaw(engine, by="eve")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert (len(provider.submitted), provider.cancelled) == (1, [])


@pytest.mark.parametrize("answer", ["busy", "failed"])
def test_a_job_that_was_claimed_before_a_freeze_of_a_day_and_never_sent_is_tried_more_than_once(
    shop: World, provider: ProviderDouble, answer: str
) -> None:
    engine = shop.workspace.engine
    (job_id,) = ask(shop, "a cat")
    claimed = claim.claim(engine, "a worker", [None], limit=9)
    freeze(engine, by="eve", reason="a doubt")
    claim.hand_back(engine, claimed)
    a_day_later(shop)
    thaw(engine, by="eve")
    provider.queue = [BUSY] if answer == "busy" else []
    provider.ends_as = {"status": "failed", "error": "it broke"} if answer == "failed" else provider.ends_as
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    assert find(engine, job_id).state == JobState.QUEUED


def test_a_paid_clip_that_nobody_followed_for_a_day_is_not_given_up_at_the_first_failed_upload(
    shop: World, provider: ProviderDouble
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.looks = 10_000
    assert run(shop, http(provider), seconds=0.5) == {End.HANDED_OVER: 1}
    provider.looks = 0
    a_day_later(shop)
    shop.double.faults.fail("PutObject", 403, times=1)
    assert run(shop, http(provider)) == {End.PARKED: 1}
    shop.double.faults.clear()
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert spent(shop) == find(shop.workspace.engine, job_id).price_microusd


def require_a_second_look(shop: World, provider: ProviderDouble, job_id: str, *, is_forgotten: bool) -> None:
    """Fail its worker's first look at a paid clip, which is not given up, and have it fetched by the next."""
    provider.looks, known = 0, provider.jobs
    provider.weather = lambda what, _: (503, None) if what == "read" and not is_forgotten else None
    provider.jobs = {} if is_forgotten else known
    asked = HttpProvider(provider.url, TOKEN, allow_private=True, timeout_seconds=60.0)
    assert run(shop, RemoteGenerator(asked, poll_seconds=0.05, most_silent_seconds=0.2)) == {End.PARKED: 1}
    assert provider.cancelled == []
    provider.jobs, provider.weather = known, lambda *_: None
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert spent(shop) == find(shop.workspace.engine, job_id).price_microusd


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_paid_clip_that_nobody_followed_for_a_day_is_not_given_up_at_the_first_failed_look(
    shop: World, provider: ProviderDouble, *, is_forgotten: bool
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.looks = 10_000
    assert run(shop, http(provider), seconds=0.5) == {End.HANDED_OVER: 1}
    a_day_later(shop)
    require_a_second_look(shop, provider, job_id, is_forgotten=is_forgotten)


def test_the_time_of_a_job_at_its_vendor_is_kept_where_another_worker_takes_it_over(shop: World) -> None:
    engine = shop.workspace.engine
    (job_id,) = ask(shop, "a cat")
    (claimed,) = claim.claim(engine, "a worker", [None], limit=9)
    a_day_later(shop)
    waited = find(engine, job_id).started_at
    sent = claim.announce(engine, claimed, "http")
    assert find(engine, job_id).started_at == sent.started_at
    assert waited
    assert sent.started_at - waited > timedelta(hours=24)


def test_a_refused_job_keeps_the_time_since_when_it_waits(shop: World, provider: ProviderDouble) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.queue = [BUSY] * 2
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    before = find(shop.workspace.engine, job_id).started_at
    end_hold(shop.workspace.engine, "http")
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    assert find(shop.workspace.engine, job_id).started_at == before


def test_a_progress_that_is_no_number_renews_the_claims_of_all_jobs(shop: World) -> None:
    engine = shop.workspace.engine
    ask(shop, "a cat", "a dog")
    first, second = claim.claim(engine, "a worker", [None] * 2, limit=9)
    told = fraction(json.loads('{"progress": NaN}')["progress"])  # as Python's json writes 0 of 0 steps
    assert claim.renew(engine, [(first, 0.5), (second, told)]) == {first.id: False, second.id: False}


def test_a_text_that_the_store_does_not_accept_delays_no_job(shop: World, provider: ProviderDouble) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.ends_as = {"status": "failed", "error": "out \ud800of\0 memory"}
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    assert find(shop.workspace.engine, job_id).error == snapshot("the provider reports it as failed: out of memory")


def test_a_locked_account_raises_an_alert_fails_no_job_and_sends_none_until_unlocked(
    shop: World, provider: ProviderDouble
) -> None:
    made = ask(shop, "a cat", "a dog", "a bird")
    provider.queue = [(402, {"error": "no credit left"})]
    assert run(shop, http(provider), slots=1) == {End.RETRIED: 1}
    found = [find(shop.workspace.engine, job_id) for job_id in made]
    assert [(job.state, job.attempts) for job in found] == [(JobState.QUEUED, 0)] * 3
    with reading(shop.workspace.engine) as session:
        told = session.execute(sa.select(alerts.c.rule, alerts.c.state, alerts.c.text)).one()
    assert (told.rule, told.state) == ("locked_account", AlertState.FIRING)
    assert "no credit left" in told.text
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {}  # another worker knows of it
    end_wait(shop.workspace.engine, "http")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 3}
    with reading(shop.workspace.engine) as session:
        assert session.execute(sa.select(alerts.c.state)).scalar_one() == AlertState.RESOLVED


def test_the_expected_cost_of_a_job_with_an_unknown_result_is_ours_and_spent(
    shop: World, provider: ProviderDouble
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.is_down = True
    assert run(shop, http(provider)) == {End.PARKED: 1}
    a_day_later(shop)
    assert run(shop, http(provider)) == {End.DEAD: 1}
    job = find(shop.workspace.engine, job_id)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd)
    assert job.cost_microusd is None, "nobody has said what it cost"


def test_the_expected_cost_of_a_sent_job_whose_workers_died_is_ours_and_spent(
    shop: World, provider: ProviderDouble
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.is_down = True
    assert run(shop, http(provider)) == {End.PARKED: 1}
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(attempts=99, due_at=Clock(-1)))
    assert run(shop, http(provider)) == {End.DEAD: 1}
    job = find(shop.workspace.engine, job_id)
    assert marked(job.error) == snapshot(
        "no success here, given up after 2 attempts; the last: the provider answered 503 when asked for jobs by their key"
    )
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd)


def test_a_video_lost_at_the_provider_is_not_made_and_paid_again(shop: World, provider: ProviderDouble) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.ends_as = {"status": "succeeded", "video_url": "/gone.mp4"}
    assert run(shop, http(provider)) == {End.REFUSED: 1}
    job = find(shop.workspace.engine, job_id)
    assert (job.state, len(provider.submitted)) == (JobState.DEAD, 1)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd)


def test_a_job_that_one_provider_may_have_is_sent_to_no_other(
    shop: World, provider: ProviderDouble, tmp_path: Path
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.is_down = True
    assert run(shop, http(provider)) == {End.PARKED: 1}
    make_due(shop.workspace.engine)
    assert run(shop, LocalGenerator(tmp_path)) == {}  # it could not ask, and its doubt is no answer
    a_day_later(shop)
    assert run(shop, LocalGenerator(tmp_path)) == {}  # its own provider's worker ends it
    assert find(shop.workspace.engine, job_id).state == JobState.PARKED
    assert run(shop, http(provider)) == {End.DEAD: 1}


@pytest.mark.parametrize("is_parked", [True, False])
def test_a_job_at_a_provider_that_no_worker_serves_any_more_is_dead_after_twice_the_time(
    shop: World, provider: ProviderDouble, tmp_path: Path, *, is_parked: bool
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.is_down, provider.looks = is_parked, 10_000
    before = {End.PARKED: 1} if is_parked else {End.HANDED_OVER: 1}
    assert run(shop, http(provider), seconds=0.5) == before
    days_later(shop)
    assert run(shop, LocalGenerator(tmp_path)) == {End.PARKED: 1}
    make_due(shop.workspace.engine)
    assert run(shop, LocalGenerator(tmp_path)) == {End.DEAD: 1}
    job = find(shop.workspace.engine, job_id)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd), "the vendor may charge for it"
    assert job.provider_key, "a person's retry looks it up"


@pytest.mark.parametrize("is_parked", [True, False])
def test_a_job_is_not_given_up_for_want_of_a_worker_that_was_away_as_all_were(
    shop: World, provider: ProviderDouble, tmp_path: Path, *, is_parked: bool
) -> None:
    """After a freeze of a weekend, the worker of another provider was the first to look, and gave a paid clip up."""
    (job_id,) = ask(shop, "a cat")
    provider.is_down, provider.looks = is_parked, 10_000
    run(shop, http(provider), seconds=0.5)
    days_later(shop)
    provider.is_down, provider.looks = False, 0
    assert run(shop, LocalGenerator(tmp_path)) == {End.PARKED: 1}
    make_due(shop.workspace.engine, 60)
    assert run(shop, http(provider), seconds=0.5) == {}
    make_due(shop.workspace.engine)
    assert run(shop, LocalGenerator(tmp_path)) == {}
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert find(shop.workspace.engine, job_id).state == JobState.SUCCEEDED
    assert len(provider.submitted) == 1


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_that_another_provider_s_worker_came_first_is_no_doubt_about_a_paid_clip(
    shop: World, provider: ProviderDouble, tmp_path: Path, *, is_forgotten: bool
) -> None:
    """After a freeze of a weekend, its own worker cancelled it, and gave it up, as its first look failed."""
    (job_id,) = ask(shop, "a cat")
    provider.looks = 10_000
    assert run(shop, http(provider), seconds=0.5) == {End.HANDED_OVER: 1}
    days_later(shop)
    assert run(shop, LocalGenerator(tmp_path)) == {End.PARKED: 1}
    make_due(shop.workspace.engine)
    require_a_second_look(shop, provider, job_id, is_forgotten=is_forgotten)


def test_a_run_with_attempts_of_its_own_leaves_a_job_alone_that_no_worker_serves(
    shop: World, provider: ProviderDouble, tmp_path: Path
) -> None:
    """It claimed the job and gave it back, hundreds of times a minute."""
    ask(shop, "a cat")
    provider.looks = 10_000
    run(shop, http(provider), seconds=0.5)
    days_later(shop)
    patient = AttemptPolicy(give_up_hours=720)
    assert run(shop, LocalGenerator(tmp_path), seconds=2, attempts=patient) == {End.PARKED: 1}


@pytest.mark.parametrize("answer", [(400, {"error": {"code": "content_policy_violation", "message": "no weapons"}})])
def test_a_providers_message_about_the_content_reaches_the_user(
    shop: World, provider: ProviderDouble, answer: tuple[int, object]
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.queue = [answer]
    assert run(shop, http(provider)) == {End.REFUSED: 1}
    assert find(shop.workspace.engine, job_id).error == snapshot("the provider answered 400: no weapons")
    assert spent(shop) == 0
