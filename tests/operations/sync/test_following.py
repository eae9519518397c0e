"""`follow_bucket`: one worker at a time follows, continues after a restart, and a listing confirms its work."""

import threading
from collections.abc import Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.errors import LeaseLost
from reelkeeper.model.buckets import Message
from reelkeeper.operations.billing import users
from reelkeeper.operations.core.lease import alone
from reelkeeper.operations.sync import adoption, following
from reelkeeper.operations.sync.events import Batch, Handled, handle
from reelkeeper.operations.sync.following import LEASE, Follower, count_gaps, follow, follow_bucket, let_settle, look
from reelkeeper.operations.sync.survey import Survey, survey
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.settings import Settings
from reelkeeper.store.core import controls as states
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.sync import scans
from reelkeeper.store.tables import controls
from tests.doubles.cloudflare import ACCOUNT
from tests.doubles.queue import QUEUE, TOKEN, QueueDouble
from tests.faults.world import World
from tests.operations.sync.queue_scene import Service


def compare(service: Service) -> Survey:
    found = survey(service.world.workspace, run_id="run", note=True)
    adoption.judge(service.world.workspace, found.scan_id, AdoptionLimits())
    return found


def followed_for_a_day(service: Service) -> None:
    """Let events be followed since yesterday, and be all handled in an hour from now."""
    with transaction(service.world.workspace.engine, "test") as session:
        at = now(session)
        states.write(
            session,
            scans.BUCKET_EVENTS,
            {
                "since": (at - timedelta(days=1)).isoformat(),
                "caught_up_at": (at + timedelta(hours=1)).isoformat(),
                "backlog": 0,
                "counts": {},
            },
        )


def test_a_video_is_known_within_a_minute_of_its_event() -> None:
    assert following.PAUSE_SECONDS + following.STANDBY_SECONDS <= 30  # and a batch takes some seconds


def test_the_loop_polls_after_each_pause_until_stopped(service: Service) -> None:
    stop = threading.Event()
    thread = threading.Thread(
        target=follow, args=(service.world.workspace, service.queue(), stop), kwargs={"pause_seconds": 0.01}
    )
    thread.start()
    try:
        for name in ("bob/one.mp4", "bob/two.mp4"):
            service.put(name)
            ends = threading.Event()
            for _ in range(500):
                if service.key(name) in service.catalogue():
                    break
                ends.wait(0.02)
    finally:
        stop.set()
        thread.join()
    assert len(service.catalogue()) == 2
    found = look(service.world.workspace.engine)
    assert found is not None
    assert (found.is_fresh, found.backlog, found.counts["adopted"]) == (True, 0, 2)


def test_while_one_follows_no_other_does(service: Service) -> None:
    with alone(service.world.workspace.engine, LEASE), pytest.raises(LeaseLost):
        follow(service.world.workspace, service.queue(), threading.Event())


def test_a_user_is_renamed_between_two_batches_and_not_during_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.put("bob/one.mp4")
    service.follow()
    engine, refusals = service.world.workspace.engine, 0

    def during(batch: Batch, messages: Sequence[Message], *, account_id: str | None) -> Handled:
        nonlocal refusals
        try:
            users.rename(engine, "bob", "gina", by="ops", apply=True)
        except LeaseLost:
            refusals += 1
        return handle(batch, messages, account_id=account_id)

    monkeypatch.setattr(following, "handle", during)
    service.put("bob/two.mp4")
    with alone(engine, LEASE) as held:
        assert Follower(service.world.workspace, service.queue(), held).turn() == 1
        assert users.rename(engine, "bob", "gina", by="ops", apply=True).rows["videos"] == 2
    assert refusals == 1


def test_unset_nothing_is_followed_and_nothing_is_written(world: World) -> None:
    follow_bucket(Settings(), threading.Event())  # returns
    assert look(world.workspace.engine) is None
    found = survey(world.workspace, run_id="run", note=True)
    let_settle(world.workspace, found)
    assert count_gaps(world.workspace, found) is None


def test_an_unreachable_store_does_not_end_the_loop(
    monkeypatch: pytest.MonkeyPatch, queue_of_session: QueueDouble, caplog: pytest.LogCaptureFixture
) -> None:
    given = {
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_URL": queue_of_session.url,
        "EVENT_QUEUE_ID": QUEUE,
        "EVENT_QUEUE_TOKEN": TOKEN,
        "S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "S3_ACCESS_KEY_ID": "k",
        "S3_SECRET_ACCESS_KEY": "s",
        "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    monkeypatch.setattr(following, "_FIRST_PAUSE_SECONDS", 0.01)

    def failures() -> int:
        return sum((record.module, record.levelname) == ("following", "WARNING") for record in caplog.records)

    stop = threading.Event()
    thread = threading.Thread(target=follow_bucket, args=(Settings(), stop))
    thread.start()
    for _ in range(500):
        if failures() > 1:
            break
        stop.wait(0.02)
    assert thread.is_alive()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert failures() > 1


def test_counts_continue_and_gaps_restart_after_a_pause_longer_than_the_queues_retention(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    first = look(service.world.workspace.engine)
    service.put("bob/two.mp4")
    service.follow()
    second = look(service.world.workspace.engine)
    assert first is not None
    assert second is not None
    assert (second.since, second.counts["adopted"]) == (first.since, 2)
    seen = []
    for away in (timedelta(days=4, minutes=-1), timedelta(days=4, minutes=1)):
        with transaction(service.world.workspace.engine, "test") as session:
            session.execute(sa.update(controls).values(updated_at=now(session) - away))
        service.follow()
        seen.append(look(service.world.workspace.engine))
    assert [after and (after.since > first.since, after.counts["adopted"]) for after in seen] == [(False, 2), (True, 2)]


def test_a_listing_counts_differences_without_an_event(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelkeeper.rules.sync.events.SETTLING", timedelta(seconds=-60))
    service.put("bob/told.mp4")
    service.put("bob/written.mp4")
    service.put("bob/deleted.mp4")
    service.follow()
    followed_for_a_day(service)
    assert count_gaps(service.world.workspace, compare(service)) == 0
    service.put("bob/new.mp4", tell=False)
    service.put("bob/written.mp4", b"another video", tell=False)
    service.delete("bob/deleted.mp4", tell=False)
    assert count_gaps(service.world.workspace, compare(service)) == 3


def test_a_recently_stored_object_is_no_gap(service: Service) -> None:
    followed_for_a_day(service)
    service.put("bob/new.mp4", tell=False)
    assert count_gaps(service.world.workspace, compare(service)) == 0


def test_a_listing_waits_for_the_events_of_what_it_misses(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    service.delete("bob/clip.mp4")
    found = compare(service)
    assert len(found.missing) == 1
    service.follow()
    followed_for_a_day(service)
    let_settle(service.world.workspace, found, seconds=0.1)
    assert found.missing == []  # the event has come meanwhile


def test_an_object_still_missing_after_the_wait_is_lost(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    service.delete("bob/clip.mp4", tell=False)
    found = compare(service)
    let_settle(service.world.workspace, found, seconds=0.1)
    assert len(found.missing) == 1
    with reading(service.world.workspace.engine) as session:
        assert scans.count_deleted(session) == 0
