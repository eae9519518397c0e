"""Advance notice: no video with promised notice is retired before every endpoint has it, and it is given once."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import Frozen, KeepRefused, NotFound
from reelkeeper.model import BlobState, Grace, Outcome, StoredObject, VideoState
from reelkeeper.model.alerts import EventType
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.core.adopt_store import adopt, look
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.lifecycle import notices, outcomes, previews
from reelkeeper.operations.lifecycle.notices import keep
from reelkeeper.operations.lifecycle.policies import effect_of
from reelkeeper.operations.lifecycle.previews import Planning
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.lifecycle.why import explain
from reelkeeper.operations.removals.delete import delete as delete_video
from reelkeeper.operations.removals.takedown import TakedownOrder, take_down
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.overwrites import take_uploads
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.alerts import alerts
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import events
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.core.prune_records import KINDS, delete
from reelkeeper.store.tables import (
    audit_events,
    blobs,
    notice_deliveries,
    outbox,
    users,
    videos,
    webhook_endpoints,
)
from reelkeeper.store.tables import notices as notice_rows
from reelkeeper.store.videos.holds import HoldTerms
from tests.doubles.receiver import Receiver
from tests.faults.world import World
from tests.marks import marked
from tests.policies import put_in_force
from tests.tiers import tiers
from tests.worlds import AtFailpoint

DAYS = 14
POLICY = LifecyclePolicy(keep_times=2)
PROMISED = tiers(free={"notice_days": DAYS, "keep_days": 30})
RULES = DEFAULTS.overridden(lifecycle=POLICY, tiers=PROMISED)
TIMES = (
    videos.c.created_at,
    outbox.c.created_at,
    outbox.c.due_at,
    webhook_endpoints.c.closed_until,
    webhook_endpoints.c.failing_since,
    notice_rows.c.given_at,
    notice_rows.c.expires_at,
    notice_deliveries.c.delivered_at,
    notice_deliveries.c.released_at,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


class Service:
    """A deployment whose free users were promised two weeks' notice, and the service's servers."""

    def __init__(self, world: World, lease: Lease, receiver: Receiver) -> None:
        self.world, self.lease, self.receiver = world, lease, receiver
        self.engine = world.workspace.engine
        put_in_force(self.engine, lifecycle=POLICY, tiers=PROMISED)
        self._nights = 0

    def listens(self, path: str = "/live") -> str:
        endpoint_id, secret = webhooks.add(
            self.engine, self.receiver.url(path), [EventType.VIDEO_EXPIRING], allow_private=True, author="test"
        )
        self.receiver.secrets[path].append(secret)
        return endpoint_id

    def video(self, video_id: str, age_days: float = 40) -> None:
        self.world.video(video_id, stored=False)
        with transaction(self.engine, "test") as session:
            created_at = datetime.now(UTC) - timedelta(days=age_days)
            session.execute(sa.update(videos).where(videos.c.id == video_id).values(created_at=created_at))

    def plan(self, exception: Tiers | None = None) -> Report:
        self._nights += 1
        with reading(self.engine) as session:
            as_of = now(session)
        return previews.expire_videos(Planning(self.engine, as_of, f"night-{self._nights}"), tiers=exception)

    def carry_out(self, report: Report) -> dict[str, int]:
        """Carry out a plan as the flow does; return the outcomes of its videos."""
        done = Counter[str]()
        for action in ("withdraw", "notify", "retire"):
            with closing(outcomes.planned(self.engine, report.plan.id, action, 500)) as batches:
                for batch in batches:
                    video_ids = [str(item.video_id) for item in batch]
                    done.update(outcome.action for outcome in self._act(report, action, video_ids))
        notices.tell_of_waiting(self.engine, report.plan, report.run_id)
        return dict(done)

    def _act(self, report: Report, action: str, video_ids: Sequence[str]) -> list[Outcome]:
        run_id, plan_id = report.run_id, report.plan.id
        if action == "retire":
            return retire(self.world.workspace, plan_id, video_ids, lease=self.lease, run_id=run_id, grace=POLICY.grace)
        return notices.carry_out(self.engine, plan_id, video_ids, RULES, lease=self.lease, run_id=run_id)

    def night(self) -> dict[str, int]:
        return self.carry_out(self.plan())

    def deliver(self) -> None:
        webhooks.deliver(self.engine, allow_private=True, seconds=60)

    def later(self, days: float) -> None:
        """Let days pass, for all that has a time."""
        with transaction(self.engine, "test") as session:
            for column in TIMES:
                key = next(iter(column.table.primary_key))
                if column.table is notice_deliveries:
                    key = notice_deliveries.c.message_id
                for found, at in session.execute(sa.select(key, column).where(column.is_not(None))).all():
                    moved = sa.update(column.table).where(key == found)
                    session.execute(moved.values({column.name: at - timedelta(days=days)}))

    def told(self, path: str = "/live") -> list[str]:
        return [each.data["video_id"] for each in self.receiver.taken(path)]

    def states(self) -> dict[str, str]:
        with reading(self.engine) as session:
            return {row.id: row.state for row in session.execute(sa.select(videos.c.id, videos.c.state))}

    def alerts(self) -> set[tuple[str, str]]:
        with reading(self.engine) as session:
            return {(line.rule, line.scope) for line in alerts.listed(session, everything=False, limit=100)}

    def events(self, *names: str) -> list[str]:
        with reading(self.engine) as session:
            chosen = sa.select(audit_events.c.event).where(audit_events.c.event.in_(names))
            return list(session.execute(chosen.order_by(audit_events.c.id)).scalars())


@pytest.fixture
def service(world: World, lease: Lease, server: Receiver) -> Service:
    server.secrets.clear()
    server.answers.clear()
    server.always.clear()
    server.got.clear()
    return Service(world, lease, server)


def test_a_video_gets_notice_and_is_retired_when_it_is_over(service: Service) -> None:
    service.listens()
    service.video("v1")
    assert service.night() == {"notified": 1}
    service.later(DAYS + 1)
    assert service.night() == {}  # sent is not delivered, however long ago
    service.deliver()
    (got,) = service.receiver.taken("/live")
    assert (got.type, got.data["video_id"], got.data["state"]) == ("video.expiring", "v1", "live")
    assert (got.data["notice_days"], got.data["keep_days"], got.data["purge_after"]) == (DAYS, 30, None)
    assert marked(got.data["reason"]) == snapshot(
        "notice of 14 days, retired on DAY at the earliest: 40 days old: free users' videos are kept for 30 days"
    )
    service.later(DAYS - 0.01)
    assert service.plan().plan.kept["notice_running"] == 1
    assert "retire" not in service.night()
    service.later(0.02)
    assert service.night()["retired"] == 1
    assert service.states()["v1"] == "retired"


def test_a_sink_that_is_down_for_a_week_retires_nothing_that_was_promised_notice(service: Service) -> None:
    endpoint_id = service.listens()
    service.receiver.always["/live"] = 500
    service.video("v1")
    service.video("v2")
    assert service.night() == {"notified": 2}
    late = ("notice_not_delivered", f"webhook:{endpoint_id}")
    for days, is_told in ((0.99, False), (0.02, True), *((1, True) for _ in range(6))):
        service.deliver()
        service.later(days)
        assert service.night() == {}
        assert (late in service.alerts()) == is_told
    assert set(service.states().values()) == {"live"}
    assert service.alerts() >= {late, ("webhook_disabled", f"webhook:{endpoint_id}")}
    service.later(30)
    assert service.night() == {}
    service.receiver.always.clear()
    webhooks.enable(service.engine, endpoint_id, author="test")
    service.deliver()
    assert service.night() == {}  # the days of notice begin with the delivery
    assert late not in service.alerts()
    assert sorted(service.told()) == ["v1", "v2"]
    service.later(DAYS + 0.01)
    assert service.night() == {"retired": 2}


def test_a_notice_that_waits_for_its_delivery_holds_up_its_own_video_alone(service: Service) -> None:
    service.listens()
    service.video("v1")
    service.night()
    service.deliver()
    service.later(DAYS - 1)
    service.video("v2")
    assert service.night() == {"notified": 1}
    service.later(1.01)
    assert service.night() == {"retired": 1}
    assert service.states() == {"v1": "retired", "v2": "live"}
    assert effect_of(service.engine, RULES).retired_in_24h == 1


def test_one_endpoint_of_two_is_not_enough_until_an_operator_releases_the_other(service: Service) -> None:
    service.listens("/live")
    dead = service.listens("/dead")
    service.receiver.always["/dead"] = 410
    service.video("v1")
    service.night()
    service.deliver()
    service.later(DAYS + 1)
    assert service.night() == {}
    assert webhooks.release(service.engine, dead, author="ops", reason="told by mail") == 1
    assert ("notice_not_delivered", f"webhook:{dead}") not in service.alerts()
    assert service.night() == {}  # the word stands for a delivery: the days begin
    service.later(DAYS + 0.01)
    assert service.night() == {"retired": 1}
    assert service.events("notice", "notice_release", "retire") == ["notice", "notice_release", "retire"]
    assert webhooks.release(service.engine, None, author="ops", reason="again") == 0
    with pytest.raises(NotFound):
        webhooks.release(service.engine, "none", author="ops", reason="none")


def test_an_endpoint_that_is_removed_is_waited_for_no_more_unless_it_was_the_only_one(service: Service) -> None:
    service.listens("/live")
    dead = service.listens("/dead")
    service.receiver.always["/dead"] = 500
    service.video("v1")
    service.night()
    service.deliver()
    webhooks.remove(service.engine, dead, author="test")
    service.later(DAYS + 0.01)
    assert service.night() == {"retired": 1}
    service.video("v2")
    service.receiver.always["/live"] = 500
    service.night()
    service.deliver()
    with reading(service.engine) as session:
        (only,) = session.execute(sa.select(webhook_endpoints.c.id)).scalars()
    webhooks.remove(service.engine, only, author="test")
    service.later(DAYS + 0.01)
    assert service.night() == {}  # nobody has heard of it
    assert service.alerts() >= {("notice_no_endpoint", "expire_videos")}


def test_without_an_endpoint_nothing_is_retired_and_people_are_alerted_until_one_is_added(service: Service) -> None:
    service.video("v1")
    report = service.plan()
    assert report.plan.kept == {"notice_no_endpoint": 1}
    assert service.carry_out(report) == {}
    assert service.alerts() == {("notice_no_endpoint", "expire_videos")}
    service.listens()
    assert service.night() == {"notified": 1}
    assert service.alerts() == set()


def test_a_stale_plan_retires_nothing_whose_notice_was_not_given(service: Service) -> None:
    service.listens()
    service.video("v1")
    put_in_force(service.engine)
    stale = service.plan()
    assert stale.plan.retire.objects == 1
    put_in_force(service.engine, lifecycle=POLICY, tiers=PROMISED)
    assert service.carry_out(stale) == {"skipped": 1}
    exception = service.plan(tiers(free={"notice_days": 0}))
    assert exception.plan.retire.objects == 1  # an exception of one run takes no promise back
    assert service.carry_out(exception) == {"skipped": 1}
    assert service.states() == {"v1": "live"}


def ready(service: Service) -> Report:
    """Plan to retire v1, whose notice was given to all and is over."""
    service.listens()
    service.video("v1")
    service.night()
    service.deliver()
    service.later(DAYS + 1)
    report = service.plan()
    assert report.plan.retire.objects == 1
    return report


CHANGES: Final[dict[str, sa.Executable]] = {
    "ended": sa.update(notice_rows).values(ended_at=datetime.now(UTC)),
    "of another tier": sa.update(notice_rows).values(tier="pro"),
    "of a later day": sa.update(notice_rows).values(expires_at=datetime.now(UTC) + timedelta(days=1)),
    "not delivered": sa.update(notice_deliveries).values(delivered_at=None),
    "delivered late": sa.update(notice_deliveries).values(delivered_at=datetime.now(UTC)),
    "sent to no endpoint": sa.delete(notice_deliveries),
}


@pytest.mark.parametrize("meanwhile", sorted(CHANGES))
def test_a_notice_that_changed_since_the_plan_does_not_count(service: Service, meanwhile: str) -> None:
    report = ready(service)
    with transaction(service.engine, "test") as session:
        session.execute(CHANGES[meanwhile])
    assert service.carry_out(report) == {"skipped": 1}


def test_a_request_to_keep_is_seen_by_a_run_that_retires_at_the_same_time(
    service: Service, at_failpoint: AtFailpoint
) -> None:
    report, runs = ready(service), list[Future[dict[str, int]]]()
    with ThreadPoolExecutor(1) as pool:

        def meanwhile() -> None:
            runs.append(pool.submit(service.carry_out, report))
            wait(runs, 0.5)

        at_failpoint("keep.before_commit", meanwhile)
        keep(service.engine, "v1", by="shop", key="k1")
        assert runs[0].result() == {"skipped": 1}
    assert service.states() == {"v1": "live"}


def test_a_restored_video_gets_a_new_notice(service: Service) -> None:
    service.carry_out(ready(service))
    workspace = service.world.workspace
    with transaction(service.engine, "test") as session:  # as if nothing had ended it
        session.execute(sa.update(notice_rows).values(ended_at=None))
    (found,) = find_restorable(workspace, run_id=None, video_id="v1")
    service.world.workspace.bucket.put_once(found.key, service.world.clip, "video/mp4")
    restore(workspace, [found], run_id="undo", author="ops", grace=Grace(), hold_days=1)
    with transaction(service.engine, "test") as session:
        session.execute(sa.text("UPDATE holds SET released_at = created_at"))
    assert service.night() == {"notified": 1}


def test_after_a_restored_backup_no_earlier_notice_counts_as_requests_to_keep_since_are_unknown(
    service: Service,
) -> None:
    service.listens()
    service.video("v1")
    assert service.night() == {"notified": 1}
    service.deliver()
    service.later(DAYS + 1)
    adopt(service.world.workspace, look(service.world.workspace), by="p")
    assert service.night() == {"notified": 1}
    service.deliver()
    assert keep(service.engine, "v1", by="ann", key="again").times == 1
    service.later(DAYS + 1)
    assert service.night() == {}


def test_a_video_that_the_service_stores_anew_gets_a_notice_of_its_own(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    promised = tiers(free={"notice_days": DAYS, "retention_days": 10})  # so a video is due within its notice at once
    put_in_force(service.engine, lifecycle=POLICY, tiers=promised)
    monkeypatch.setattr(f"{__name__}.RULES", DEFAULTS.overridden(lifecycle=POLICY, tiers=promised))
    service.listens()
    key = f"{service.world.address.prefix}ann/v1/clip.mp4"
    service.world.workspace.bucket.put_once(key, service.world.clip, "video/mp4")
    service.world.video("v1", key=key, stored=False)
    with transaction(service.engine, "test") as session:
        session.execute(sa.update(videos).values(created_at=datetime.now(UTC) - timedelta(hours=1)))

    def night() -> dict[str, int]:
        with reading(service.engine) as session:
            at = now(session)
        work = Planning(service.engine, at, f"night of {at}", keeps_contract=lambda: True)
        done = service.carry_out(previews.expire_videos(work))
        service.deliver()
        return done

    assert night() == {"notified": 1}
    service.later(9)
    with transaction(service.engine, "test") as session:
        deployment.lock(session)
        (blob_id,) = session.scalars(sa.select(videos.c.blob_id))
        anew = StoredObject(key, 77, "another", datetime.now(UTC))
        take_uploads(session, [(blob_id, anew)], run_id="sync", grace=Grace())
    for _ in range(1, DAYS):
        night()
        service.later(1)
    assert service.states() == {"v1": "live"}
    assert service.told() == ["v1", "v1"]
    service.later(1)
    assert night() == {"retired": 1}


def test_a_held_videos_waiting_notice_is_withdrawn_and_later_given_again(service: Service) -> None:
    service.listens()
    service.video("v1")
    service.night()
    hold(service.engine, HoldTerms("video", "v1", "a dispute", "test", datetime.now(UTC) + timedelta(days=1)))
    assert service.night() == {"withdrawn": 1}
    service.deliver()
    assert service.told() == []
    with transaction(service.engine, "test") as session:
        session.execute(sa.text("UPDATE holds SET released_at = created_at"))
    assert service.night() == {"notified": 1}
    service.deliver()
    assert service.told() == ["v1"]


def test_nobody_is_told_that_a_deleted_video_will_expire(service: Service) -> None:
    service.listens()
    service.video("v1")
    assert service.night() == {"notified": 1}
    delete_video(service.engine, "v1", by="front", run_id="delete-1")
    service.deliver()
    assert service.told() == []


def test_nobody_is_told_that_a_video_will_expire_that_was_taken_down(service: Service) -> None:
    service.listens()
    service.video("v1")
    assert service.night() == {"notified": 1}
    order, scratch = TakedownOrder("counsel", "court order 17", "takedown-1"), Path(service.world.address.folder)
    take_down(service.world.workspace, "v1", order, scratch=scratch)
    service.deliver()
    assert service.told() == []


def test_no_notice_is_given_for_a_video_that_changed_since_the_plan(service: Service) -> None:
    service.listens()
    service.video("v1")
    report = service.plan()
    hold(service.engine, HoldTerms("video", "v1", "a dispute", "test"))
    assert service.carry_out(report) == {"skipped": 1}
    service.deliver()
    assert service.told() == []


def test_no_notice_is_given_during_a_freeze(service: Service) -> None:
    service.listens()
    service.video("v1")
    report = service.plan()
    freeze(service.engine, by="test", reason="a test")
    with pytest.raises(Frozen):
        service.carry_out(report)
    service.deliver()
    assert service.told() == []


def test_two_plans_of_the_same_videos_tell_of_each_once(service: Service) -> None:
    service.listens()
    service.video("v1")
    first, second = service.plan(), service.plan()
    assert (service.carry_out(first), service.carry_out(second)) == ({"notified": 1}, {"skipped": 1})
    service.deliver()
    assert service.told() == ["v1"]


def test_a_failure_before_a_notice_is_written_leaves_nothing_half_done(
    service: Service, at_failpoint: AtFailpoint
) -> None:
    service.listens()
    service.video("v1")

    def break_off() -> None:
        raise OSError("the disk is gone")

    at_failpoint("notices.before_commit", break_off)
    assert service.night() == {"failed": 1}
    with reading(service.engine) as session:
        assert session.execute(sa.select(notice_rows.c.id)).all() == session.execute(sa.select(outbox.c.id)).all() == []
    assert service.night() == {"notified": 1}
    service.deliver()
    assert service.told() == ["v1"]


def test_a_notice_whose_message_was_deleted_is_given_again(service: Service) -> None:
    service.listens()
    service.video("v1")
    service.night()
    with transaction(service.engine, "test") as session:
        session.execute(sa.delete(outbox))
    assert (service.night(), service.night()) == ({"withdrawn": 1}, {"notified": 1})


def test_a_kept_video_stays_for_its_days_and_gets_a_new_notice(service: Service) -> None:
    report = ready(service)
    kept = keep(service.engine, "v1", by="shop", key="k1", user_id="ann")
    assert keep(service.engine, "v1", by="shop", key="k1") == kept
    assert timedelta(days=29.99) < kept.until - datetime.now(UTC) < timedelta(days=30.01)
    assert service.carry_out(report) == {"skipped": 1}
    assert service.night() == {}
    again = keep(service.engine, "v1", by="shop", key="k2")
    assert again.until - kept.until == timedelta(days=30)  # from when it would go
    assert (kept.times, again.times) == (1, 2)
    with reading(service.engine) as session:
        recorded = [one.event for one in events(session, event="keep", video_id="v1")]
    assert [(one.run_id, one.detail["times"]) for one in recorded] == [("shop", 2), ("shop", 1)]
    explained = explain(service.engine, "v1", "", lambda: True)
    assert explained.next_at == again.until
    with pytest.raises(KeepRefused) as refused:
        keep(service.engine, "v1", by="shop", key="k3")
    assert str(refused.value) == snapshot("video 'v1' was already kept longer 2 times, which is the limit")
    with transaction(service.engine, "test") as session:
        session.execute(sa.text("UPDATE keeps SET until = at"))
    assert service.night() == {"notified": 1}


def test_a_request_to_keep_is_refused_if_not_offered_not_the_users_or_not_live(service: Service) -> None:
    service.video("v1")
    for video_id, user_id in (("none", None), ("v1", "bob")):
        with pytest.raises(NotFound):
            keep(service.engine, video_id, by="shop", key="k", user_id=user_id)
    with transaction(service.engine, "test") as session:
        session.execute(sa.update(users).values(tier="pro"))
    with pytest.raises(KeepRefused) as refused:
        keep(service.engine, "v1", by="shop", key="k")
    assert str(refused.value) == snapshot("the tier pro does not keep videos longer on request")
    with transaction(service.engine, "test") as session:
        session.execute(sa.update(videos).values(state=VideoState.RETIRED))
    with pytest.raises(KeepRefused) as refused:
        keep(service.engine, "v1", by="shop", key="k")
    assert marked(refused.value) == snapshot(
        "video 'v1' is retired: only a live video can be kept longer. An operator may be able to restore it"
    )


def test_records_of_ended_notices_are_deleted(service: Service) -> None:
    service.carry_out(ready(service))
    service.video("v2")
    service.night()
    later = datetime.now(UTC) + timedelta(days=1)
    with transaction(service.engine, "test") as session:
        for kind in KINDS:
            if kind.table in (notice_deliveries, notice_rows):
                assert delete(session, kind, later, 100) == 1
        assert session.execute(sa.select(notice_rows.c.video_id)).scalars().all() == ["v2"]


def fill(service: Service, count: int) -> None:
    """Add so many due videos, with one statement a table and thousand."""
    made_at = datetime.now(UTC) - timedelta(days=40)
    with transaction(service.engine, "test") as session:
        for first in range(0, count, 1_000):
            some = range(first, first + 1_000)
            rows = [{"id": f"v{n}", "user_id": "ann", "state": VideoState.LIVE, "created_at": made_at} for n in some]
            session.execute(sa.insert(videos), rows)
            stored = [
                {
                    "id": n + 1,
                    "video_id": f"v{n}",
                    "key": f"videos/ann/v{n}/g1-{n:016x}.mp4",
                    "state": BlobState.LIVE,
                    "size_bytes": 1_000,
                }
                for n in some
            ]
            session.execute(sa.insert(blobs), stored)
        session.execute(
            sa.update(videos).values(
                blob_id=sa.select(blobs.c.id).where(blobs.c.video_id == videos.c.id).scalar_subquery()
            )
        )


def test_ten_thousand_notices_are_given_each_once_by_as_many_statements_a_batch(service: Service) -> None:
    service.listens()
    fill(service, 10_000)
    report, again = service.plan(), service.plan()
    with closing(outcomes.planned(service.engine, report.plan.id, "notify", 500)) as batches:
        sent: list[int] = []
        sa.event.listen(service.engine, "before_cursor_execute", lambda *_: sent.append(threading.get_ident()))
        statements = []
        for number, batch in enumerate(batches):
            sent.clear()
            service._act(report, "notify", [str(item.video_id) for item in batch])
            statements.append(sent.count(threading.get_ident()))  # the lease is renewed by a thread of its own
            if number == 10:
                break  # the run is killed between two batches
    assert 0 < statements[0] < 50
    assert set(statements[1:]) == {statements[1]}
    assert service.carry_out(again) == {"notified": 10_000 - 11 * 500, "skipped": 11 * 500}
    assert service.night() == {}
    with reading(service.engine) as session:
        subjects = session.execute(sa.select(outbox.c.subject)).scalars().all()
        assert (len(subjects), len(set(subjects))) == (10_000, 10_000)
        assert len(session.execute(sa.select(notice_deliveries.c.notice_id)).all()) == 10_000


def test_an_endpoint_that_is_removed_while_a_run_gives_notices_holds_up_no_video(
    service: Service, at_failpoint: AtFailpoint
) -> None:
    service.listens("/live")
    other = service.listens("/other")
    service.video("v1")
    removals = list[Future[None]]()
    with ThreadPoolExecutor(1) as pool:

        def meanwhile() -> None:
            removals.append(pool.submit(webhooks.remove, service.engine, other, author="test"))
            wait(removals, 0.5)

        at_failpoint("notices.before_commit", meanwhile)
        assert service.night() == {"notified": 1}
        removals[0].result()
    service.deliver()
    service.later(DAYS + 0.01)
    assert service.night() == {"retired": 1}
