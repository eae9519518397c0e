"""A worker keeps its slots full, and one job's failure does not affect the others."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.ffmpeg import probe
from reelkeeper.adapters.ffmpeg.sandbox import Bounds
from reelkeeper.adapters.providers import Generators, LocalGenerator, RemoteGenerator
from reelkeeper.errors import DiskFull, LeaseLost
from reelkeeper.model import VideoState
from reelkeeper.model.alerts import AlertState
from reelkeeper.model.jobs import End, JobState
from reelkeeper.model.requests import Declined
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import FAIL
from reelkeeper.operations.health.bucket_checks import examine_bucket
from reelkeeper.operations.jobs import claim
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.claim import redrive
from reelkeeper.operations.jobs.run import JobRun, WorkerContext, run_job
from reelkeeper.operations.jobs.settle import cancel
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.attempts import AttemptPolicy, is_generators_fault
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.settings import Settings
from reelkeeper.store.billing import spend_counters
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.tables import alerts, controls, jobs, policy_versions, vendor_jobs, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.disks import fill, small_disk
from tests.doubles.provider import LOST, ProviderDouble
from tests.doubles.vendor import Vendor
from tests.faults.world import World
from tests.operations.conftest import killed
from tests.operations.queue import assert_pause, enqueue, find, make_due, row
from tests.operations.shop import SMALL, ask, budget_spent, http, in_a_while, run, spent
from tests.policies import put_in_force
from tests.worlds import AtFailpoint


@pytest.mark.long
def test_jobs_are_really_generated_stored_and_charged(shop: World, tmp_path: Path) -> None:
    made = ask(shop, "a cat", "a dog", "a bird")
    assert run(shop, LocalGenerator(tmp_path)) == {End.SUCCEEDED: 3}
    with reading(shop.workspace.engine) as session:
        live = session.execute(sa.select(videos.c.id).where(videos.c.state == VideoState.LIVE)).scalars()
        assert sorted(live) == sorted(made)
    jobs_made = [find(shop.workspace.engine, text) for text in made]
    assert spent(shop) == sum(job.price_microusd for job in jobs_made) > 0
    assert all(job.state == JobState.SUCCEEDED and job.processing_seconds > 0 for job in jobs_made)
    assert all(job.concurrency >= 1 for job in jobs_made)  # it counts itself, and is known of short jobs too


def test_a_job_counts_concurrent_jobs_of_its_own_provider(shop: World, provider: ProviderDouble) -> None:
    (made,) = ask(shop, "a cat")
    at_work: dict[str, Any] = {"state": JobState.RUNNING, "lease_until": datetime.now(UTC) + timedelta(hours=1)}
    others = (row(f"{lane}{n}", lane=lane, **at_work) for n in range(3) for lane in ("else", "http"))
    enqueue(shop.workspace.engine, *others)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert find(shop.workspace.engine, made).concurrency == 4


@pytest.mark.long
def test_a_provider_makes_them_and_says_what_they_cost(shop: World, provider: ProviderDouble) -> None:
    made = ask(shop, "a cat", "a dog")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 2}
    assert [find(shop.workspace.engine, text).cost_microusd for text in made] == [12_346, 12_346]
    assert len(provider.submitted) == 2


def test_a_worker_that_is_told_to_close_ends_at_once_and_claims_nothing_more(
    shop: World, provider: ProviderDouble
) -> None:
    closing = threading.Event()
    in_a_while(lambda: True, closing.set)
    began = time.monotonic()
    assert run(shop, http(provider), until_idle=False, closing=closing) == {}
    assert time.monotonic() - began < 30  # of the 60 s of its shift
    (made,) = ask(shop, "a cat")
    assert run(shop, http(provider), until_idle=False, closing=closing) == {}
    assert find(shop.workspace.engine, made).state == JobState.QUEUED


@pytest.mark.parametrize("format_", ["runway"], indirect=True)  # it looks no job up: one in doubt is dead after a day
@pytest.mark.parametrize("stop", ["hand over", "cancel"])
def test_a_job_that_its_worker_did_not_send_any_more_is_in_no_doubt(
    shop: World, vendor: Vendor, generator: RemoteGenerator, at_failpoint: AtFailpoint, stop: str
) -> None:
    engine, (text,) = shop.workspace.engine, ask(shop, "a cat")
    (claimed,) = claim.claim(engine, "w", [None], limit=1)
    with LeaseManager(engine) as manager:
        folder = Path(shop.address.folder)
        context = WorkerContext(shop.workspace, Generators.alone(generator), manager, folder, "run")
        job = JobRun(context, claimed, AttemptPolicy())
        stopping = context.closing.set if stop == "hand over" else partial(setattr, job, "is_cancelled", True)
        at_failpoint("jobs.announce.after_commit", stopping)
        ended = run_job(context, job)
    assert (vendor.submitted, budget_spent(shop)) == ([], 0)
    left = find(engine, text)
    assert left.provider_key is None
    with reading(engine) as session:
        assert session.execute(sa.select(vendor_jobs.c.counted_microusd)).scalars().all() in ([], [0])
    if stop == "cancel":
        assert (ended, left.state, spent(shop)) == (End.CANCELLED, JobState.CANCELLED, 0)
        return
    assert (ended, left.state, left.attempts) == (End.HANDED_OVER, JobState.QUEUED, 0)
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert len(vendor.submitted) == 1


@pytest.mark.parametrize("format_", ["runway"], indirect=True)  # it looks no job up: its id is all that finds one
def test_a_worker_that_was_suspended_as_its_vendor_answered_tells_the_next_one_the_job_s_id(
    shop: World, vendor: Vendor, generator: RemoteGenerator, at_failpoint: AtFailpoint
) -> None:
    (text,) = ask(shop, "a cat")

    def another_parks_it() -> None:
        with transaction(shop.workspace.engine, "test") as session:
            taken = {"lease_token": jobs.c.lease_token + 1, "state": JobState.PARKED, "due_at": Clock(-1)}
            session.execute(sa.update(jobs).values(claimed_by=None, lease_until=None, **taken))

    at_failpoint("provider.submit.after", another_parks_it)
    assert run(shop, generator) == {End.LOST: 1, End.SUCCEEDED: 1}
    assert len(vendor.submitted) == 1
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd


def test_a_job_is_tried_as_often_as_its_model_says(shop: World, provider: ProviderDouble) -> None:
    entry = {"model": SMALL["model"], "price": {"base_usd": "0.01"}, "most_attempts": 1}
    put_in_force(shop.workspace.engine, book=PriceBook.model_validate({"models": [entry]}))
    (bad,) = ask(shop, "bad")
    provider.fails = "bad"
    assert run(shop, http(provider)) == {End.DEAD: 1}
    assert find(shop.workspace.engine, bad).error == snapshot(
        "given up after 1 attempt; the last: the provider reports it as failed: bad"
    )


@pytest.mark.long
def test_a_job_that_fails_stops_no_other_and_is_dead_after_its_attempts_at_no_charge(
    shop: World, provider: ProviderDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "pause_seconds", lambda *_: 600.0)  # 2 s are over before a slow machine's first run is
    bad, good = ask(shop, "bad", "good")
    provider.fails = "bad"
    assert run(shop, http(provider)) == {End.RETRIED: 1, End.SUCCEEDED: 1}
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.DEAD: 1}
    dead = find(shop.workspace.engine, bad)
    assert dead.error == snapshot("given up after 2 attempts; the last: the provider reports it as failed: bad")
    assert is_generators_fault(dead.error)
    assert (dead.attempts, dead.concurrency) == (2, 1.0)  # what the limit's rule asks of it
    assert spent(shop) == find(shop.workspace.engine, good).price_microusd
    assert len(provider.submitted) == 3


@pytest.mark.long
def test_a_dead_job_that_is_tried_again_is_made_and_charged_once(shop: World, provider: ProviderDouble) -> None:
    (text,) = ask(shop, "a cat")
    provider.fails = "a cat"
    assert run(shop, http(provider), attempts=AttemptPolicy(most_attempts=1)) == {End.DEAD: 1}
    assert spent(shop) == 0
    provider.fails = None
    redrive(shop.workspace.engine, text, author="bea")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd > 0


def test_a_job_that_a_provider_refuses_for_good_is_dead_at_once(shop: World, provider: ProviderDouble) -> None:
    (text,) = ask(shop, "a face")
    provider.queue = [(422, {"error": "a face"})]
    assert run(shop, http(provider)) == {End.REFUSED: 1}
    assert find(shop.workspace.engine, text).state == JobState.DEAD
    assert spent(shop) == 0


def test_a_request_that_a_provider_refuses_is_not_sent_again_for_those_who_joined_it(
    shop: World, provider: ProviderDouble
) -> None:
    engine, request = shop.workspace.engine, {**SMALL, "prompt": "a face"}
    asked = [
        admit(engine, request, user_id="ann", client_key=key, provider="http") for key in ("leads", "joins", "too")
    ]
    provider.queue = [(422, {"error": "a face"})]
    assert run(shop, http(provider)) == {End.REFUSED: 1}
    assert provider.submitted == []
    left = [find(engine, answer.job_id) for answer in asked if not isinstance(answer, Declined)]
    assert {(job.state, job.error, job.leader_id) for job in left} == {(JobState.DEAD, left[0].error, None)}
    assert spent(shop) == 0


@pytest.mark.long
def test_a_lost_answer_is_looked_up_later_and_paid_once(shop: World, provider: ProviderDouble) -> None:
    (text,) = ask(shop, "a cat")
    provider.queue, provider.hides_jobs = [LOST], True
    assert run(shop, http(provider)) == {End.PARKED: 1}
    assert find(shop.workspace.engine, text).state == JobState.PARKED
    provider.hides_jobs = False
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1
    assert find(shop.workspace.engine, text).attempts == 1


def test_a_job_in_doubt_is_looked_up_every_two_minutes_and_dead_after_a_day_at_no_charge(
    shop: World, provider: ProviderDouble
) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.is_down = True
    with reading(shop.workspace.engine) as session:
        began = now(session)
    assert run(shop, http(provider)) == {End.PARKED: 1}
    assert_pause(shop.workspace.engine, job_id, timedelta(minutes=2), began)
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-25 * 3600), due_at=Clock(-1)))
    assert run(shop, http(provider)) == {End.DEAD: 1}
    assert spent(shop) == 0


def test_a_job_that_its_user_cancels_is_stopped_at_the_provider_and_not_charged(
    shop: World, provider: ProviderDouble
) -> None:
    (text,) = ask(shop, "a cat")
    provider.looks = 10_000
    thread = in_a_while(lambda: provider.submitted, lambda: cancel(shop.workspace.engine, text, run_id="ann"))
    assert run(shop, http(provider), heartbeat_seconds=0.1) == {End.CANCELLED: 1}
    thread.join()
    assert len(provider.cancelled) == 1
    job = find(shop.workspace.engine, text)
    assert job.state == JobState.CANCELLED
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd), "the provider may charge for it"


def test_a_job_that_is_cancelled_between_two_workers_is_stopped_at_the_provider(
    shop: World, provider: ProviderDouble
) -> None:
    (text,) = ask(shop, "a cat")
    provider.looks = 10_000
    assert run(shop, http(provider), seconds=0.5) == {End.HANDED_OVER: 1}
    assert cancel(shop.workspace.engine, text, run_id="ann") == JobState.QUEUED
    assert run(shop, http(provider)) == {End.CANCELLED: 1}
    assert len(provider.cancelled) == 1
    job = find(shop.workspace.engine, text)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd)


@pytest.mark.long
def test_jobs_at_a_provider_when_a_window_ends_go_to_the_next_worker(shop: World, provider: ProviderDouble) -> None:
    (text,) = ask(shop, "a cat")
    provider.looks = 10_000
    assert run(shop, http(provider), seconds=0.5) == {End.HANDED_OVER: 1}
    assert find(shop.workspace.engine, text).attempts == 0
    provider.looks = 1
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1


@pytest.mark.long
def test_a_worker_that_was_asleep_for_too_long_does_nothing_more(shop: World, provider: ProviderDouble) -> None:
    (text,) = ask(shop, "a cat")
    provider.looks = 10_000

    def take_over() -> None:
        with transaction(shop.workspace.engine, "test") as session:
            taken = {"lease_token": jobs.c.lease_token + 1, "claimed_by": "another", "lease_until": Clock(60)}
            session.execute(sa.update(jobs).values(taken))

    thread = in_a_while(lambda: find(shop.workspace.engine, text).provider_job_id, take_over)
    assert run(shop, http(provider), heartbeat_seconds=0.1) == {End.LOST: 1}
    thread.join()
    assert find(shop.workspace.engine, text).claimed_by == "another"
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(lease_until=Clock(-1)))
    provider.looks = 1
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1


def test_a_job_whose_video_exists_succeeds_without_being_made_again(shop: World, provider: ProviderDouble) -> None:
    """Its worker died before it could say so, and by now the provider knows nothing of it."""
    (text,) = ask(shop, "a cat")
    shop.video(text)
    provider.is_down = True
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert find(shop.workspace.engine, text).video_id == text
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd


def test_a_job_whose_video_exists_succeeds_although_all_its_workers_died(shop: World, provider: ProviderDouble) -> None:
    (text,) = ask(shop, "a cat")
    shop.video(text)
    with transaction(shop.workspace.engine, "test") as session:
        died = {"state": JobState.RUNNING, "attempts": AttemptPolicy().most_attempts, "lease_until": Clock(-1)}
        session.execute(sa.update(jobs).values(died))
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert provider.submitted == []


def test_a_job_that_is_cancelled_when_its_video_is_stored_succeeds_and_is_charged(
    shop: World, provider: ProviderDouble, at_failpoint: AtFailpoint
) -> None:
    """Its worker died before it could say so, or before it could even publish what it had stored."""
    text, other = ask(shop, "a cat", "a dog")
    shop.video(text)

    at_failpoint("upload.put.after", killed)
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).where(jobs.c.id == text).values(due_at=Clock(60)))
    assert run(shop, http(provider)) == {End.LOST: 1}
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(state=JobState.RUNNING, lease_until=Clock(-1)))
    for job_id in (text, other):
        assert cancel(shop.workspace.engine, job_id, run_id="ann") == JobState.RUNNING
    provider.is_down = True
    assert run(shop, http(provider)) == {End.SUCCEEDED: 2}
    assert [find(shop.workspace.engine, job_id).video_id for job_id in (text, other)] == [text, other]
    assert spent(shop) == 2 * find(shop.workspace.engine, text).price_microusd


@pytest.mark.parametrize("parked", [False, True])
def test_a_job_that_has_stored_its_video_is_not_given_up_while_the_bucket_fails(
    shop: World, provider: ProviderDouble, at_failpoint: AtFailpoint, *, parked: bool
) -> None:
    (text,) = ask(shop, "a cat")

    at_failpoint("upload.put.after", killed)
    assert run(shop, http(provider)) == {End.LOST: 1}
    died: dict[str, Any] = {"attempts": AttemptPolicy().most_attempts, "lease_until": Clock(-1)}
    # one that this machine makes has no vendor's id; another was in doubt for a day
    died |= {"state": JobState.PARKED, "started_at": Clock(-25 * 3600)} if parked else {"provider_job_id": None}
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(died))
    shop.double.faults.fail("GetObject", 403, times=99)
    assert run(shop, http(provider)) in ({End.PARKED: 1}, {End.RETRIED: 1})
    assert find(shop.workspace.engine, text).state in {JobState.PARKED, JobState.QUEUED}
    shop.double.faults.clear()
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd


@pytest.mark.parametrize("point", ["jobs.over.before_commit", "job.succeed.before_commit"])
def test_a_paid_clip_is_not_given_up_as_the_store_fails_for_a_moment_on_its_last_attempt(
    shop: World, provider: ProviderDouble, at_failpoint: AtFailpoint, point: str
) -> None:
    (text,) = ask(shop, "a cat")

    def fails() -> None:
        raise sa.exc.OperationalError("UPDATE", {}, Exception("it is starting up"))

    at_failpoint(point, fails)
    assert run(shop, http(provider), attempts=AttemptPolicy(most_attempts=1)) == {End.PARKED: 1}
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd


def test_a_job_whose_stored_video_is_damaged_is_fetched_again(
    shop: World, provider: ProviderDouble, at_failpoint: AtFailpoint
) -> None:
    (text,) = ask(shop, "a cat")

    def killed() -> None:
        (stored,) = [item.key for page in shop.workspace.bucket.pages() for item in page]
        shop.double.client.delete_object(Bucket=shop.workspace.bucket.name, Key=stored)
        raise LeaseLost("killed")

    at_failpoint("upload.put.after", killed)
    assert run(shop, http(provider)) == {End.LOST: 1}
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(lease_until=Clock(-1)))
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd


def test_a_paid_clip_that_the_bucket_does_not_take_waits_for_it_and_is_not_bought_again(
    shop: World, provider: ProviderDouble
) -> None:
    (text,) = ask(shop, "a cat")
    for _ in range(AttemptPolicy().most_attempts + 1):
        shop.double.faults.fail("PutObject", 403, times=1)  # of the video; then it takes others
        assert run(shop, http(provider)) == {End.PARKED: 1}
        shop.double.faults.clear()
        make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd


def told(shop: World) -> list[tuple[str, str]]:
    with reading(shop.workspace.engine) as session:
        return [(row.rule, row.state) for row in session.execute(sa.select(alerts.c.rule, alerts.c.state))]


def test_nothing_is_bought_while_the_bucket_takes_no_videos(shop: World, provider: ProviderDouble) -> None:
    first, second, third = ask(shop, "a cat", "a dog", "a fox")
    shop.double.faults.fail("PutObject", 403, times=99)
    assert run(shop, http(provider), slots=1) == {End.PARKED: 1}
    make_due(shop.workspace.engine)
    assert run(shop, http(provider), slots=1) == {}, "another worker knows it from the store"
    assert len(provider.submitted) == 1
    assert told(shop) == [("bucket_refuses", AlertState.FIRING)]
    shop.double.faults.clear()
    assert run(shop, http(provider), slots=1) == {End.SUCCEEDED: 3}
    assert told(shop) == [("bucket_refuses", AlertState.RESOLVED)]
    assert [find(shop.workspace.engine, job_id).video_id for job_id in (first, second, third)] == [first, second, third]
    engine, bucket = shop.workspace.engine, shop.workspace.bucket
    found = examine_bucket(Settings(), engine, bucket, claim=False, contract=False)
    assert FAIL not in {item.state for item in found}  # a worker left there what doctor would


def test_a_machine_that_the_bucket_refuses_is_told_once_while_it_takes_the_objects_of_another(
    shop: World, provider: ProviderDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run of the other told that it was over, and the next look of this one that it was not."""
    ask(shop, "a cat", "a dog")
    shop.double.faults.fail("PutObject", 403, times=99)
    run(shop, http(provider), slots=1)
    shop.double.faults.clear()
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert run(shop, http(provider), slots=1) == {End.SUCCEEDED: 1}, "it can"
    assert told(shop) == [("bucket_refuses", AlertState.FIRING)]
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(controls).values(updated_at=Clock(-61)))
    make_due(shop.workspace.engine)
    assert run(shop, http(provider), slots=1) == {End.SUCCEEDED: 1}
    assert told(shop) == [("bucket_refuses", AlertState.RESOLVED)], "the other asks no more"


def test_a_paid_clip_that_a_busy_machine_cannot_look_at_waits_and_is_not_bought_again(
    shop: World, provider: ProviderDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = ask(shop, "a cat")
    with monkeypatch.context() as busy:
        busy.setattr(probe, "Bounds", partial(Bounds, wall_seconds=0.0))  # no tool ends in time
        for _ in range(AttemptPolicy().most_attempts + 1):
            assert run(shop, http(provider)) == {End.PARKED: 1}
            make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1
    assert spent(shop) == find(shop.workspace.engine, text).price_microusd


def test_a_job_that_was_admitted_under_a_version_that_cannot_be_read_now_stops_no_other(
    shop: World, provider: ProviderDouble
) -> None:
    engine = shop.workspace.engine
    version = put_in_force(engine, attempts=AttemptPolicy(most_attempts=4))
    (old,) = ask(shop, "a cat")
    put_in_force(engine, attempts=AttemptPolicy(most_attempts=3))
    (new,) = ask(shop, "a dog")
    of_old = sa.update(policy_versions).where(policy_versions.c.version == version)
    with transaction(engine, "test") as session:
        session.execute(of_old.values(document={"of": "another version"}))
        session.execute(sa.update(jobs).where(jobs.c.id == old).values(policy_version=version))
    assert run(shop, http(provider)) == {End.FAILED: 1, End.SUCCEEDED: 1}
    assert (find(engine, old).state, find(engine, new).state) == (JobState.PARKED, JobState.SUCCEEDED)
    with transaction(engine, "test") as session:
        session.execute(of_old.values(document=DEFAULTS.model_dump(mode="json")))
    make_due(engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert (find(engine, old).attempts, len(provider.submitted)) == (1, 2)


def test_a_held_user_gets_the_videos_that_are_asked_for(shop: World, provider: ProviderDouble) -> None:
    hold(shop.workspace.engine, HoldTerms("user", "ann", "evidence", "counsel", is_legal=True))
    (text,) = ask(shop, "a cat")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert find(shop.workspace.engine, text).video_id == text


def test_a_worker_waits_for_the_lease_of_another_that_was_storing_the_video(
    shop: World, provider: ProviderDouble, at_failpoint: Callable[[str, Callable[[], object]], None]
) -> None:
    """A dead one's: it ends up to 15 s after the dead one's claim, and the job would stand for another minute."""
    (text,) = ask(shop, "a cat")
    with LeaseManager(shop.workspace.engine) as another:
        taken = another.take([f"video/{text}"])
        at_failpoint("leases.acquire.after_commit", lambda: another.release(taken))  # when the worker was refused it
        assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert find(shop.workspace.engine, text).attempts == len(provider.submitted) == 1


def test_a_job_whose_claim_was_lost_or_not_renewed_is_abandoned(shop: World, provider: ProviderDouble) -> None:
    ask(shop, "a cat")
    engine = shop.workspace.engine
    (mine,) = claim.claim(engine, "w", [None], limit=1)
    with LeaseManager(engine) as manager:
        context = WorkerContext(
            shop.workspace, Generators.alone(http(provider)), manager, Path(shop.address.folder), "run"
        )
        lost, asleep, well = (JobRun(context, mine, AttemptPolicy()) for _ in range(3))
        lost.is_lost = True
        asleep.renewed, well.renewed = asleep.renewed - 41, well.renewed - 35
        for job in (lost, asleep):
            with pytest.raises(LeaseLost):
                job.check()
        well.check()


def test_a_job_whose_workers_all_died_is_dead_after_its_attempts(shop: World, provider: ProviderDouble) -> None:
    """It may be what they died of."""
    (text,) = ask(shop, "a cat")
    with transaction(shop.workspace.engine, "test") as session:
        died = {"state": JobState.RUNNING, "attempts": AttemptPolicy().most_attempts, "lease_until": Clock(-1)}
        session.execute(sa.update(jobs).values(died))
    assert run(shop, http(provider)) == {End.DEAD: 1}
    assert find(shop.workspace.engine, text).error == snapshot(
        "no success here, given up after 2 attempts; the last: its worker stopped responding"
    )
    assert provider.submitted == []


@pytest.mark.long
def test_a_freeze_stops_the_work_and_loses_nothing_of_it(shop: World, provider: ProviderDouble) -> None:
    (text,) = ask(shop, "a cat")
    provider.looks = 20
    stop = lambda: freeze(shop.workspace.engine, by="test", reason="an alarm")  # noqa: E731  what is done in a while
    thread = in_a_while(lambda: find(shop.workspace.engine, text).provider_job_id, stop)
    assert run(shop, http(provider)) == {End.HANDED_OVER: 1}
    thread.join()
    thaw(shop.workspace.engine, by="test")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1


@pytest.mark.long
def test_a_worker_that_has_to_stop_hands_over_every_job(shop: World, provider: ProviderDouble) -> None:
    ask(shop, "a", "b")
    provider.looks = 10_000

    def limit() -> int:
        if provider.submitted:
            raise KeyboardInterrupt
        return 1

    with pytest.raises(KeyboardInterrupt):
        run(shop, http(provider), limit=limit)
    with reading(shop.workspace.engine) as session:
        left = session.execute(sa.select(jobs.c.state, jobs.c.attempts, jobs.c.claimed_by)).all()
    assert left == [("queued", 0, None)] * 2
    provider.looks = 1
    assert run(shop, http(provider)) == {End.SUCCEEDED: 2}


def test_the_cost_of_failed_attempts_is_ours_and_not_the_users(shop: World, provider: ProviderDouble) -> None:
    provider.ends_as = {"status": "failed", "cost_usd": "0.0100001", "error": "it broke"}
    (job_id,) = ask(shop, "a cat")
    deadline = time.monotonic() + 240
    while find(shop.workspace.engine, job_id).state != JobState.DEAD and time.monotonic() < deadline:
        run(shop, http(provider))
        make_due(shop.workspace.engine)
    job = find(shop.workspace.engine, job_id)
    assert (job.state, job.attempts, job.cost_microusd) == (JobState.DEAD, 2, 2 * 10_001)
    assert spent(shop) == 0
    with reading(shop.workspace.engine) as session:
        assert spend_counters.so_far(session, now(session)).today_microusd == 2 * 10_001


@pytest.mark.long
def test_a_full_disk_ends_the_worker_and_no_job_is_blamed_for_it(shop: World, tmp_path: Path) -> None:
    made = ask(shop, "a cat", "a dog")
    with small_disk(Path(shop.address.folder) / "scratch", 64) as scratch:
        filler = fill(scratch, 1_000_000)
        with pytest.raises(DiskFull) as refused:
            run(shop, LocalGenerator(tmp_path))
        assert str(scratch) in str(refused.value)
        jobs_left = [find(shop.workspace.engine, text) for text in made]
        assert [(job.state, job.attempts) for job in jobs_left] == [(JobState.QUEUED, 0)] * 2
        filler.unlink()
        assert run(shop, LocalGenerator(tmp_path)) == {End.SUCCEEDED: 2}
