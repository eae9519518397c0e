"""How a job ends: once, by the last claim on it, charged only when there is a video."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper import failpoints
from reelkeeper.errors import HoldClosed, IntegrityDoubt, LeaseLost, NotFound
from reelkeeper.model import Grace
from reelkeeper.model.alerts import EventType
from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import Metric
from reelkeeper.model.requests import Cached, Incoming, Joined, Queued
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs.deliver import deliver
from reelkeeper.operations.jobs.settle import Attempt, Settled, cancel, fail, succeed
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.jobs import claims
from reelkeeper.store.jobs.endings import ESTIMATES
from reelkeeper.store.tables import cache_entries, controls, credit_holds, jobs, outbox, usage_days, users, videos
from reelkeeper.store.videos.videos import is_live
from tests.children import FORKED
from tests.faults.world import LONG_AGO, Address, World
from tests.marks import marked
from tests.operations.asking import ask, claim, fox, make, row
from tests.operations.books import DOLLAR, assert_books_balance, assert_bytes_add_up, balances, make_user, storage
from tests.policies import put_in_force


@pytest.fixture
def funded(engine: sa.Engine) -> Iterator[sa.Engine]:
    """Ann, Ben and Cat have a dollar each; at the end everything adds up."""
    for user in ("ann", "ben", "cat"):
        make_user(engine, user, DOLLAR, tier="pro")
    yield engine
    assert accounts.recount(engine) == []
    with reading(engine) as session:
        assert_books_balance(session)
        assert_bytes_add_up(session)


def queue(engine: sa.Engine, client_key: str = "k1", **options: object) -> Queued:
    answer = ask(engine, client_key, fox(**options))
    assert isinstance(answer, Queued)
    return answer


def join(engine: sa.Engine, user: str, client_key: str = "k1") -> Joined:
    answer = ask(engine, client_key, fox(shared=True), user=user)
    assert isinstance(answer, Joined)
    return answer


def test_success_charges_once_gives_bytes_and_enters_the_cache_and_the_usage(funded: sa.Engine) -> None:
    job = queue(funded)
    token = claim(funded, job.job_id)
    make(funded, job.job_id, 700)
    done = succeed(funded, Attempt(job.job_id, token, cost_microusd=9_000), run_id="test")
    assert done == Settled(job.job_id, JobState.SUCCEEDED, job.job_id, job.price_microusd, 0)
    assert succeed(funded, Attempt(job.job_id, token, cost_microusd=9_000), run_id="test") == done
    assert balances(funded, "ann") == (DOLLAR - job.price_microusd, 0)
    assert storage(funded, "ann") == (700, 0)
    ended = row(funded, job.job_id)
    assert (ended.cost_microusd, ended.progress, ended.lease_until) == (9_000, 1.0, None)
    assert ended.processing_seconds == pytest.approx(240, abs=5)
    with reading(funded) as session:
        assert session.execute(sa.select(cache_entries.c.video_id, cache_entries.c.cost_microusd)).all() == [
            (job.job_id, 9_000)
        ]
        chosen = sa.select(usage_days.c.user_id, usage_days.c.quantity).where(usage_days.c.metric == Metric.JOBS)
        assert sorted(session.execute(chosen).all()) == [("", 1), ("ann", 1)]
        (factors,) = (
            session.execute(sa.select(controls.c.state).where(controls.c.name == ESTIMATES)).scalar_one().values()
        )
    assert factors == [pytest.approx(240 / 127.5, rel=0.05)]  # one of eight slots was taken


def test_a_job_does_not_succeed_without_its_video(funded: sa.Engine) -> None:
    job = queue(funded)
    with pytest.raises(IntegrityDoubt) as refused:
        succeed(funded, Attempt(job.job_id, claim(funded, job.job_id)), run_id="test")
    assert marked(refused.value) == snapshot("job ID cannot succeed without a live video; it stays running")
    assert row(funded, job.job_id).state == JobState.RUNNING
    assert balances(funded, "ann")[1] == job.price_microusd


def test_a_claim_that_was_lost_changes_nothing(funded: sa.Engine) -> None:
    job = queue(funded)
    lost, token = claim(funded, job.job_id), claim(funded, job.job_id)
    make(funded, job.job_id)
    with pytest.raises(LeaseLost):
        succeed(funded, Attempt(job.job_id, lost), run_id="test")
    with pytest.raises(LeaseLost):
        fail(funded, Attempt(job.job_id, lost), "late", run_id="test")
    assert row(funded, job.job_id).state == JobState.RUNNING
    succeed(funded, Attempt(job.job_id, token), run_id="test")
    with pytest.raises(LeaseLost):
        fail(funded, Attempt(job.job_id, token), "after all", run_id="test")
    with pytest.raises(NotFound):
        fail(funded, Attempt("nothing", 1), "", run_id="test")


def test_a_failure_gives_everything_back(funded: sa.Engine) -> None:
    job = queue(funded)
    token = claim(funded, job.job_id)
    done = fail(funded, Attempt(job.job_id, token), "the provider is broken", run_id="test")
    assert done == Settled(job.job_id, JobState.DEAD, None, 0, 0)
    assert fail(funded, Attempt(job.job_id, token), "again", run_id="test") == done
    assert balances(funded, "ann") == (DOLLAR, 0)
    assert storage(funded, "ann") == (0, 0)
    assert row(funded, job.job_id).error == snapshot("the provider is broken")


def test_a_follower_gets_the_leaders_video_at_the_charge_of_a_hit(funded: sa.Engine) -> None:
    put_in_force(funded, admission=AdmissionPolicy(hit_charge_percent=10))
    leader = queue(funded, shared=True)
    followers = [join(funded, "ben"), join(funded, "cat")]
    make(funded, leader.job_id)
    put_in_force(funded, admission=AdmissionPolicy(hit_charge_percent=90))  # what was promised holds
    done = succeed(funded, Attempt(leader.job_id, claim(funded, leader.job_id)), run_id="test")
    assert done.followers == 2
    for joined in followers:
        assert (row(funded, joined.job_id).state, row(funded, joined.job_id).video_id) == (
            JobState.SUCCEEDED,
            leader.job_id,
        )
    assert balances(funded, "ben") == (DOLLAR - leader.price_microusd // 10, 0)
    assert storage(funded, "ann")[1] == 0
    later = ask(funded, "k2", fox(shared=True), user="cat")
    assert isinstance(later, Cached)
    assert later.video_id == leader.job_id


@pytest.mark.parametrize("way", ["fails", "is cancelled"])
def test_when_the_leader_ends_without_a_video_the_oldest_follower_takes_over(funded: sa.Engine, way: str) -> None:
    leader = queue(funded, shared=True)
    first, second = join(funded, "ben"), join(funded, "cat")
    if way == "fails":
        done = fail(funded, Attempt(leader.job_id, claim(funded, leader.job_id)), "broken", run_id="test")
        assert done.promoted == first.job_id
    else:
        assert cancel(funded, leader.job_id, run_id="test") == JobState.CANCELLED
    assert balances(funded, "ann") == (DOLLAR, 0)
    assert storage(funded, "ben")[1] > 0  # its bytes are its own now
    assert row(funded, first.job_id).leader_id is None
    assert row(funded, second.job_id).leader_id == first.job_id
    make(funded, first.job_id)
    assert succeed(funded, Attempt(first.job_id, claim(funded, first.job_id)), run_id="test").followers == 1
    assert balances(funded, "ben") == (DOLLAR - leader.price_microusd, 0)
    assert balances(funded, "cat") == (DOLLAR, 0)


def test_a_job_at_work_that_another_waits_for_goes_on_when_it_is_cancelled_and_the_other_pays(
    funded: sa.Engine,
) -> None:
    put_in_force(funded, admission=AdmissionPolicy(hit_charge_percent=10))
    leader = queue(funded, shared=True)
    first, second = join(funded, "ben"), join(funded, "cat")
    token = claim(funded, leader.job_id)
    assert cancel(funded, leader.job_id, run_id="test", user_id="ann") == JobState.RUNNING
    with transaction(funded, "test") as session:
        assert claims.renew(session, [(leader.job_id, token, 0.5)]) == {leader.job_id: False}
    make(funded, leader.job_id)
    done = succeed(funded, Attempt(leader.job_id, token), run_id="test")
    assert (done.charged_microusd, done.followers) == (0, 2)
    assert {row(funded, each.job_id).video_id for each in (first, second)} == {leader.job_id}
    price = leader.price_microusd
    assert [balances(funded, user)[0] for user in ("ann", "ben", "cat")] == [
        DOLLAR,
        DOLLAR - price,
        DOLLAR - price // 10,
    ]


def test_a_cancelled_job_ends_once_nobody_waits_for_it_and_at_once_if_its_user_is_being_erased(
    funded: sa.Engine,
) -> None:
    leader = queue(funded, shared=True)
    joined, token = join(funded, "ben"), claim(funded, leader.job_id)
    cancel(funded, leader.job_id, run_id="test", user_id="ann")

    def is_to_stop() -> bool:
        with transaction(funded, "test") as session:
            return claims.renew(session, [(leader.job_id, token, 0.5)])[leader.job_id]

    assert not is_to_stop()
    with transaction(funded, "test") as session:
        session.execute(sa.update(users).where(users.c.id == "ann").values(erasing_at=LONG_AGO))
    assert is_to_stop()
    with transaction(funded, "test") as session:
        session.execute(sa.update(users).where(users.c.id == "ann").values(erasing_at=None))
        session.execute(sa.update(jobs).where(jobs.c.id == leader.job_id).values(lease_until=LONG_AGO))
        (again,) = claims.take(session, [leader.job_id], "another")
    assert (again.cancel_asked_at, token) == (None, again.lease_token - 1)
    cancel(funded, joined.job_id, run_id="test", user_id="ben")
    token = again.lease_token
    assert is_to_stop()


def test_a_follower_without_room_for_the_bytes_ends_and_the_next_takes_over(funded: sa.Engine) -> None:
    leader = queue(funded, shared=True)
    first, second = join(funded, "ben"), join(funded, "cat")
    with transaction(funded, "test") as session:
        quota.set_quota(session, "ben", 10, author="test")
    done = fail(funded, Attempt(leader.job_id, claim(funded, leader.job_id)), "broken", run_id="test")
    assert done.promoted == second.job_id
    assert (row(funded, first.job_id).state, balances(funded, "ben")) == (JobState.DEAD, (DOLLAR, 0))
    assert marked(row(funded, first.job_id).error) == snapshot(
        "nothing was reserved for user 'ben': 0 bytes used and 0 reserved of 10; 6,912,000 more do not fit. Delete videos, or choose a larger tier"
    )


def penniless(engine: sa.Engine, user: str) -> None:
    """Let all holds expire, and the user spend the credits elsewhere."""
    with transaction(engine, "test") as session:
        session.execute(sa.update(credit_holds).values(expires_at=Clock(-1)))
        ledger.expire(session, run_id="test")
    assert ledger.deduct_user_credits(engine, user, DOLLAR, "elsewhere")


def test_a_follower_who_cannot_pay_any_more_leaves_a_cancelled_job_s_price_to_the_next(funded: sa.Engine) -> None:
    leader = queue(funded, shared=True)
    join(funded, "ben"), join(funded, "cat")
    token = claim(funded, leader.job_id)
    assert cancel(funded, leader.job_id, run_id="test", user_id="ann") == JobState.RUNNING
    penniless(funded, "ben")
    make(funded, leader.job_id)
    assert succeed(funded, Attempt(leader.job_id, token), run_id="test").followers == 2
    assert [balances(funded, user)[0] for user in ("ann", "ben", "cat")] == [DOLLAR, 0, DOLLAR - leader.price_microusd]


def test_a_follower_who_cannot_pay_any_more_takes_no_place_and_the_next_takes_over(funded: sa.Engine) -> None:
    leader = queue(funded, shared=True)
    first, second = join(funded, "ben"), join(funded, "cat")
    penniless(funded, "ben")
    done = fail(funded, Attempt(leader.job_id, claim(funded, leader.job_id)), "broken", run_id="test")
    assert (done.promoted, row(funded, first.job_id).state) == (second.job_id, JobState.DEAD)
    assert balances(funded, "cat") == (DOLLAR - leader.price_microusd, leader.price_microusd)
    make(funded, second.job_id)
    assert succeed(funded, Attempt(second.job_id, claim(funded, second.job_id)), run_id="test").followers == 0
    assert balances(funded, "cat") == (DOLLAR - leader.price_microusd, 0)


def test_a_follower_that_is_cancelled_leaves_its_leader_alone(funded: sa.Engine) -> None:
    leader = queue(funded, shared=True)
    follower = join(funded, "ben")
    assert cancel(funded, follower.job_id, run_id="test", user_id="ben") == JobState.CANCELLED
    assert balances(funded, "ben") == (DOLLAR, 0)
    make(funded, leader.job_id)
    assert succeed(funded, Attempt(leader.job_id, claim(funded, leader.job_id)), run_id="test").followers == 0


def test_of_followers_those_that_got_the_video_are_counted(funded: sa.Engine) -> None:
    leader = queue(funded, shared=True)
    left, _ = join(funded, "ben"), join(funded, "cat")
    cancel(funded, left.job_id, run_id="test", user_id="ben")
    with transaction(funded, "test") as session:
        session.execute(sa.update(jobs).where(jobs.c.id == left.job_id).values(leader_id=leader.job_id))
    make(funded, leader.job_id)
    attempt = Attempt(leader.job_id, claim(funded, leader.job_id))
    assert [succeed(funded, attempt, run_id="test").followers for _ in range(2)] == [1, 1]  # as after a lost answer


def test_a_job_at_work_is_asked_to_stop_and_one_that_ended_stays(funded: sa.Engine) -> None:
    job, other = queue(funded), ask(funded, "of ben", fox(seed=9), user="ben")
    assert isinstance(other, Queued)
    token, _ = claim(funded, job.job_id), claim(funded, other.job_id)
    with pytest.raises(NotFound):
        cancel(funded, other.job_id, run_id="test", user_id="ann")
    assert cancel(funded, job.job_id, run_id="test", user_id="ann") == JobState.RUNNING
    assert row(funded, job.job_id).cancel_asked_at is not None
    assert row(funded, other.job_id).cancel_asked_at is None
    assert balances(funded, "ann")[1] > 0
    fail(funded, Attempt(job.job_id, token), "cancelled", run_id="test", state=JobState.CANCELLED)
    assert cancel(funded, job.job_id, run_id="test") == JobState.CANCELLED
    with pytest.raises(NotFound, match="'ben'"):
        cancel(funded, job.job_id, run_id="test", user_id="ben")


@pytest.mark.parametrize("spent", [False, True])
def test_an_expired_hold_is_renewed_and_a_user_without_credits_gets_the_video_free(
    funded: sa.Engine, spent: bool
) -> None:
    job = queue(funded)
    with transaction(funded, "test") as session:
        session.execute(sa.update(credit_holds).values(expires_at=Clock(-1)))
        assert len(ledger.expire(session, run_id="test")) == 1
    if spent:
        assert ledger.deduct_user_credits(funded, "ann", DOLLAR, "elsewhere")
    make(funded, job.job_id)
    done = succeed(funded, Attempt(job.job_id, claim(funded, job.job_id)), run_id="test")
    assert done.charged_microusd == (0 if spent else job.price_microusd)
    assert balances(funded, "ann") == ((0, 0) if spent else (DOLLAR - job.price_microusd, 0))
    with pytest.raises(HoldClosed), transaction(funded, "test") as session:
        ledger.release(session, row(funded, job.job_id).hold_id, "twice", run_id="test")


@pytest.mark.parametrize("spent", [False, True])
def test_a_follower_whose_hold_expired_pays_its_share_unless_the_credits_are_spent(
    funded: sa.Engine, spent: bool
) -> None:
    put_in_force(funded, admission=AdmissionPolicy(hit_charge_percent=50))
    job, joined = queue(funded, shared=True), join(funded, "ben")
    with transaction(funded, "test") as session:
        session.execute(sa.update(credit_holds).values(expires_at=Clock(-1)))
        assert len(ledger.expire(session, run_id="test")) == 2
    if spent:
        assert ledger.deduct_user_credits(funded, "ben", balances(funded, "ben")[0], "elsewhere")
    before, _ = balances(funded, "ben")
    make(funded, job.job_id)
    assert succeed(funded, Attempt(job.job_id, claim(funded, job.job_id)), run_id="test").followers == 1
    assert row(funded, joined.job_id).video_id == job.job_id
    assert balances(funded, "ben") == (before - (0 if spent else job.price_microusd // 2), 0)


def give(world: World, lease: Lease, job_id: str, token: int) -> Settled:
    scratch = Path(world.address.folder) / "scratch"
    return deliver(world.workspace, Attempt(job_id, token), world.clip, scratch=scratch, lease=lease, run_id="test")


def give_and_die(address: Address, clip: Path, job_id: str, token: int, point: str) -> None:
    """Deliver in a process of its own that is killed at a failpoint."""
    workspace = address.workspace()
    with LeaseManager(workspace.engine) as manager:
        (lease,) = manager.take([f"test {point}"])
        failpoints.arm(f"{point}=kill")
        deliver(
            workspace, Attempt(job_id, token), clip, scratch=Path(address.folder) / "killed", lease=lease, run_id="test"
        )


def order(world: World, **admission: object) -> Queued:
    """Ann, whom the world knows, asks for a video."""
    engine = world.workspace.engine
    with transaction(engine, "test") as session:
        ledger.grant(session, "ann", DOLLAR, "gift", run_id="test")
    answer = ask(engine, "k1", admission=AdmissionPolicy.model_validate(admission))
    assert isinstance(answer, Queued)
    return answer


def test_a_file_is_stored_verified_charged_and_counted_once(world: World, lease: Lease) -> None:
    engine, job = world.workspace.engine, order(world)
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).values(tag="draft"))
    token = claim(engine, job.job_id)
    done = give(world, lease, job.job_id, token)
    with reading(engine) as session:
        assert session.execute(sa.select(videos.c.tag, videos.c.model)).one() == ("draft", "m")
    assert (done.state, done.video_id) == (JobState.SUCCEEDED, job.job_id)
    assert give(world, lease, job.job_id, token) == done
    assert storage(engine, "ann") == (world.clip.stat().st_size, 0)
    assert balances(engine, "ann") == (DOLLAR - job.price_microusd, 0)
    assert accounts.recount(engine) == []


@pytest.mark.long
def test_new_bytes_for_a_video_take_it_out_of_the_cache(world: World, lease: Lease) -> None:
    engine, job = world.workspace.engine, order(world)
    give(world, lease, job.job_id, claim(engine, job.job_id))
    assert isinstance(ask(engine, "k2"), Cached)
    upload(
        world.workspace,
        world.clip,
        Incoming("ann", job.job_id, LONG_AGO),
        scratch=Path(world.address.folder) / "scratch",
        lease=lease,
        run_id="test",
        grace=Grace(),
    )
    assert isinstance(ask(engine, "k3"), Queued)


def test_killed_between_its_video_and_its_charge_the_next_worker_finishes_it(world: World, lease: Lease) -> None:
    engine, job = world.workspace.engine, order(world)
    for point in ("upload.put.after", "upload.publish.after_commit", "job.succeed.before_commit"):
        token = claim(engine, job.job_id)
        child = FORKED.Process(target=give_and_die, args=(world.address, world.clip, job.job_id, token, point))
        child.start()
        child.join(240)
        assert child.exitcode == -signal.SIGKILL, point
        assert balances(engine, "ann")[1] == job.price_microusd
    done = give(world, lease, job.job_id, claim(engine, job.job_id))
    assert done.charged_microusd == job.price_microusd
    with reading(engine) as session:
        assert session.execute(sa.select(videos.c.generation).where(videos.c.id == job.job_id)).scalar_one() == 1
        assert session.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one() == 1
    assert accounts.recount(engine) == []


def test_a_worker_whose_job_another_has_stores_nothing(world: World, lease: Lease) -> None:
    engine, job = world.workspace.engine, order(world)
    lost, _ = claim(engine, job.job_id), claim(engine, job.job_id)
    with pytest.raises(LeaseLost):
        give(world, lease, job.job_id, lost)
    with reading(engine) as session:
        assert not is_live(session, job.job_id)
    assert balances(engine, "ann")[1] == job.price_microusd


def test_a_file_larger_than_reserved_is_still_stored(world: World, lease: Lease) -> None:
    engine, job = world.workspace.engine, order(world, bits_per_pixel=0.00001)
    give(world, lease, job.job_id, claim(engine, job.job_id))
    assert storage(engine, "ann") == (world.clip.stat().st_size, 0)
    assert accounts.recount(engine) == []


def test_every_end_of_a_job_sends_one_event(funded: sa.Engine) -> None:
    with transaction(funded, "test") as session:
        webhooks.add(session, "https://example.com", [EventType.JOB_ENDED], "whsec_c2VjcmV0")
    made, dead, dropped = (
        queue(funded, shared=True),
        queue(funded, "k2", prompt="a hare"),
        queue(funded, "k3", prompt="an owl"),
    )
    joined = join(funded, "ben", "k4")
    token = claim(funded, made.job_id)
    make(funded, made.job_id, 700)
    for _ in range(2):
        succeed(funded, Attempt(made.job_id, token), run_id="test")
    fail(funded, Attempt(dead.job_id, claim(funded, dead.job_id)), "too dark", run_id="test")
    cancel(funded, dropped.job_id, run_id="test")
    with reading(funded) as session:
        told = session.execute(sa.select(outbox.c.subject, outbox.c.payload).order_by(outbox.c.id)).all()
    assert {(row.subject, row.payload["data"]["job_id"], row.payload["data"]["state"]) for row in told} == {
        (made.job_id, made.job_id, "succeeded"),
        (made.job_id, joined.job_id, "succeeded"),
        (dead.job_id, dead.job_id, "dead"),
        (dropped.job_id, dropped.job_id, "cancelled"),
    }
    assert len(told) == 4
