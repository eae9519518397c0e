"""Answers to a request: the video, a job that makes it, a new job, or a refusal; once per client's key."""

import multiprocessing
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import KeyReused, NotFound
from reelkeeper.model import VideoState
from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import HoldState, ReservationState
from reelkeeper.model.requests import Cached, Declined, Joined, Queued, RefusedFor, Unfulfilled
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.follow import follow
from reelkeeper.operations.jobs.prices import price_of
from reelkeeper.operations.jobs.settle import Attempt, cancel, succeed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.estimate import expected_bytes
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.core.engine import Clock, open_engine, reading, transaction
from reelkeeper.store.jobs.endings import ESTIMATES
from reelkeeper.store.jobs.queue import leads
from reelkeeper.store.tables import cache_entries, controls, credit_holds, jobs, reservations, users, videos
from tests.children import FORKED
from tests.marks import marked
from tests.operations.asking import ask, claim, fox, make, row
from tests.operations.books import DOLLAR, assert_books_balance, assert_bytes_add_up, balances, make_user, storage
from tests.operations.queue import sign
from tests.policies import put_in_force
from tests.tiers import tiers

SIZE = expected_bytes(fox(), AdmissionPolicy().bits_per_pixel)


@pytest.fixture
def funded(engine: sa.Engine) -> Iterator[sa.Engine]:
    """Ann and Ben have a dollar each; at the end everything adds up."""
    make_user(engine, "ann", DOLLAR, tier="pro")
    make_user(engine, "ben", DOLLAR)
    sign(engine)
    yield engine
    assert accounts.recount(engine) == []
    with reading(engine) as session:
        assert_books_balance(session)
        assert_bytes_add_up(session)


def made(engine: sa.Engine, client_key: str, **options: object) -> str:
    """Ask for a video and let it be made; return the job's id, which is the video's."""
    job = ask(engine, client_key, fox(**options))
    assert isinstance(job, Queued)
    make(engine, job.job_id)
    succeed(engine, Attempt(job.job_id, claim(engine, job.job_id)), run_id="test")
    return job.job_id


def test_a_new_request_holds_its_price_reserves_its_bytes_and_waits(funded: sa.Engine) -> None:
    answer = ask(funded, "k1")
    assert isinstance(answer, Queued)
    assert (answer.place, answer.wait_seconds) == (1, 0)
    assert answer.finish_seconds == pytest.approx(120, abs=1)
    assert answer.price_book == PriceBook().mark
    assert answer.price_microusd > 15_000  # what it costs
    assert balances(funded, "ann") == (DOLLAR - answer.price_microusd, answer.price_microusd)
    assert storage(funded, "ann") == (0, SIZE)
    job = row(funded, answer.job_id)
    assert (job.state, job.tier, job.model, job.reserved_bytes) == (JobState.QUEUED, "pro", "m", SIZE)
    assert job.request["prompt"] == "a fox"


def test_the_same_key_gives_the_same_job_and_moves_nothing(funded: sa.Engine) -> None:
    first = ask(funded, "k1")
    before = balances(funded, "ann"), storage(funded, "ann")
    assert ask(funded, "k1") == first
    assert (balances(funded, "ann"), storage(funded, "ann")) == before
    with pytest.raises(KeyReused) as refused:
        ask(funded, "k1", fox(seed=8))
    assert marked(refused.value) == snapshot(
        "idempotency key 'k1' of user 'ann' was used for another request at DAY TIME, job ID; nothing was admitted. Use a new key for a new request"
    )
    assert isinstance(ask(funded, "k1", user="ben"), Queued)  # a key is its user's own


def test_a_request_that_is_being_made_is_joined_and_its_bytes_are_not_reserved_twice(funded: sa.Engine) -> None:
    leader = ask(funded, "k1")
    follower = ask(funded, "k2")
    assert isinstance(leader, Queued)
    assert isinstance(follower, Joined)
    assert follower.leader_id == leader.job_id
    assert ask(funded, "k2") == follower
    assert balances(funded, "ann")[1] == leader.price_microusd + follower.price_microusd
    assert storage(funded, "ann") == (0, SIZE)


def test_videos_are_private_unless_both_share_them(funded: sa.Engine) -> None:
    leader = ask(funded, "k1", fox(shared=True))
    assert isinstance(ask(funded, "k1", fox(), user="ben"), Queued)
    assert isinstance(ask(funded, "k2", fox(shared=True), user="ben"), Joined)
    assert isinstance(leader, Queued)


def test_a_cached_video_is_free_and_its_hit_counted(funded: sa.Engine) -> None:
    video = made(funded, "k1")
    before = balances(funded, "ann")
    hit = ask(funded, "k2")
    assert isinstance(hit, Cached)
    assert (hit.video_id, hit.charged_microusd) == (video, 0)
    assert ask(funded, "k2") == hit
    assert ask(funded, "k1") == Cached(video, video, DOLLAR - before[0])
    assert balances(funded, "ann") == before
    with reading(funded) as session:
        entry = session.execute(sa.select(cache_entries)).one()
    assert (entry.hits, entry.user_id) == (1, "ann")
    assert row(funded, hit.job_id).state == JobState.SUCCEEDED


def test_a_hit_can_be_charged_a_share_of_the_price(funded: sa.Engine) -> None:
    made(funded, "k1")
    half = AdmissionPolicy(hit_charge_percent=50)
    before = balances(funded, "ann")[0]
    hit = ask(funded, "k2", admission=half)
    assert isinstance(hit, Cached)
    assert hit.charged_microusd == (DOLLAR - before) // 2
    assert ask(funded, "k2") == hit
    assert balances(funded, "ann") == (before - hit.charged_microusd, 0)


@pytest.mark.parametrize("way", ["retired", "expired"])
def test_a_gone_video_or_an_expired_entry_is_not_returned(funded: sa.Engine, way: str) -> None:
    video, _ = made(funded, "k1"), made(funded, "k0", seed=9)  # the second is live all the while
    with transaction(funded, "test") as session:
        if way == "expired":
            session.execute(sa.update(cache_entries).values(expires_at=Clock(-1)))
        else:
            session.execute(sa.update(videos).where(videos.c.id == video).values(state=VideoState.RETIRED))
            session.execute(sa.text("DELETE FROM storage_accounts"))
    answer = ask(funded, "k2")
    assert isinstance(answer, Queued)
    make(funded, answer.job_id)
    succeed(funded, Attempt(answer.job_id, claim(funded, answer.job_id)), run_id="test")
    hit = ask(funded, "k3")
    assert isinstance(hit, Cached)
    assert hit.video_id == answer.job_id  # the entry names the new one now


def test_a_hit_restarts_the_time_to_live_of_its_entry(funded: sa.Engine) -> None:
    made(funded, "k1")
    with transaction(funded, "test") as session:
        session.execute(sa.update(cache_entries).values(expires_at=Clock(5)))
    ask(funded, "k2")
    with reading(funded) as session:
        left = session.execute(sa.select(cache_entries.c.expires_at > Clock(6 * 86_400))).scalar_one()
        assert left


def test_too_few_credits_no_room_and_an_unknown_tier_are_refused_and_leave_nothing(funded: sa.Engine) -> None:
    make_user(funded, "poor", 100)
    make_user(funded, "odd", DOLLAR, tier="gold")
    poor = ask(funded, "k", user="poor")
    assert isinstance(poor, Declined)
    assert poor.code == RefusedFor.CREDITS
    assert "only $0.0001 available" in poor.reason
    assert balances(funded, "poor") == (100, 0)
    full = ask(funded, "k", user="ben", tiers=tiers(free={"quota_bytes": SIZE - 1}))
    assert isinstance(full, Declined)
    assert full.code == RefusedFor.QUOTA
    assert marked(full.reason) == snapshot(
        "nothing was reserved for user 'ben': 0 bytes used and 0 reserved of 6,911,999; 6,912,000 more do not fit. Delete videos, or choose a larger tier"
    )
    odd = ask(funded, "k", user="odd")
    assert isinstance(odd, Declined)
    assert odd.code == RefusedFor.QUOTA
    with reading(funded) as session:
        assert session.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one() == 0
        assert session.execute(sa.select(sa.func.count()).select_from(reservations)).scalar_one() == 0
    assert balances(funded, "ben") == (DOLLAR, 0)
    with transaction(funded, "test") as session:
        ledger.grant(session, "poor", DOLLAR, "more", run_id="test")
    assert isinstance(ask(funded, "k", user="poor", tiers=SHIPPED), Queued)  # a refusal does not use up the key


def test_only_cached_videos_are_returned_during_a_freeze(funded: sa.Engine) -> None:
    made(funded, "k1")
    freeze(funded, by="eve", reason="a doubt")
    assert isinstance(ask(funded, "k2"), Cached)
    frozen = ask(funded, "k3", fox(seed=1))
    assert isinstance(frozen, Declined)
    assert frozen.code == RefusedFor.FROZEN
    assert "a doubt" in frozen.reason


def test_bad_input_is_refused_with_the_place_and_without_what_was_sent(funded: sa.Engine) -> None:
    answer = admit(funded, {"model": "m", "prompt": "secret " * 2000, "fps": 0}, user_id="ann", client_key="k")
    assert isinstance(answer, Declined)
    assert answer.code == RefusedFor.INPUT
    assert "prompt: " in answer.reason
    assert "fps: " in answer.reason
    assert "secret" not in answer.reason
    empty = ask(funded, "")
    assert isinstance(empty, Declined)
    assert empty.code == RefusedFor.INPUT
    with pytest.raises(NotFound, match="'nobody'"):
        ask(funded, "k", user="nobody")


def test_a_key_whose_job_ended_without_a_video_says_so(funded: sa.Engine) -> None:
    job = ask(funded, "k1")
    assert isinstance(job, Queued)
    cancel(funded, job.job_id, run_id="test", user_id="ann")
    assert ask(funded, "k1") == Unfulfilled(job.job_id, JobState.CANCELLED, "cancelled")
    assert isinstance(ask(funded, "k2"), Queued)


def test_place_and_wait_count_the_shorter_jobs_and_what_was_learned_of_the_model(funded: sa.Engine) -> None:
    put_in_force(funded, admission=AdmissionPolicy(slots=1))
    with transaction(funded, "test") as session:
        session.execute(sa.insert(controls).values(name=ESTIMATES, state={"slow": [2.0] * 64}, updated_at=Clock()))
    first = ask(funded, "k1")
    assert isinstance(first, Queued)
    claim(funded, first.job_id)
    second = ask(funded, "k2", fox(seed=1))
    slow = ask(funded, "k3", fox(model="slow"))
    third = ask(funded, "k4", fox(seed=2))
    assert isinstance(second, Queued)
    assert isinstance(slow, Queued)
    assert isinstance(third, Queued)
    assert (second.place, slow.place, third.place) == (1, 2, 2)
    assert second.wait_seconds == pytest.approx(60, abs=1)  # half of what runs
    assert (slow.finish_seconds or 0) - (slow.wait_seconds or 0) == pytest.approx(350, rel=0.02)
    assert third.wait_seconds == pytest.approx(60 + 180, abs=1)


def test_a_job_keeps_its_place_and_wait_however_many_equal_ones_come_after_it(funded: sa.Engine) -> None:
    put_in_force(funded, admission=AdmissionPolicy(slots=1))
    first, second = (ask(funded, f"k{number}", fox(seed=number)) for number in range(2))
    assert isinstance(first, Queued)
    assert isinstance(second, Queued)
    assert (first.place, second.place) == (1, 2)
    told = follow(funded, first.job_id)
    assert (told.place, told.wait_seconds) == (1, 0)
    assert ask(funded, "k0", fox(seed=0)) == first
    with transaction(funded, "test") as session:  # a shorter one that came soon after goes first, another does not
        session.execute(sa.update(jobs).where(jobs.c.id == second.job_id).values(estimate_seconds=60.0))
    assert follow(funded, first.job_id).place == 2
    with transaction(funded, "test") as session:
        earlier = {"created_at": datetime.now(UTC) - timedelta(days=1)}
        session.execute(sa.update(jobs).where(jobs.c.id == first.job_id).values(earlier))
    assert follow(funded, first.job_id).place == 1
    accounts.correct(funded, author="test")  # of the duration that was changed by hand


def test_a_leader_is_found_by_its_index(funded: sa.Engine) -> None:
    if funded.dialect.name != "sqlite":
        pytest.skip("PostgreSQL plans by statistics, of which an empty table has none")
    chosen = sa.select(jobs.c.id).where(jobs.c.cache_key == sa.literal_column("'x'"), leads(jobs))
    with reading(funded) as session:
        plan = session.execute(sa.text(f"EXPLAIN QUERY PLAN {chosen.compile(funded)}")).all()
    assert "one_leader_per_request" in str(plan)


def apply(url: str, names: list[str], results: "multiprocessing.SimpleQueue[list[str]]") -> None:
    """Ask for one video each as fast as it goes."""
    engine = open_engine(url)
    answers = [
        admit(engine, fox(seed=int(name.split()[1])), user_id=name.split()[0], client_key=name) for name in names
    ]
    results.put([answer.code if isinstance(answer, Declined) else type(answer).__name__ for answer in answers])
    engine.dispose()


@pytest.mark.long
def test_two_hundred_at_once_get_exactly_the_last_credits_and_the_last_bytes(engine: sa.Engine) -> None:
    """Of 100 requests the credits pay for 7, of 100 others 7 fit into the quota."""
    make_user(engine, "probe", DOLLAR)
    probe = ask(engine, "probe", user="probe")
    assert isinstance(probe, Queued)
    make_user(engine, "short", 8 * probe.price_microusd - 1, tier="pro")
    make_user(engine, "full", DOLLAR * 10)
    put_in_force(engine, tiers=tiers(free={"quota_bytes": 7 * SIZE + SIZE - 1}))
    names = [f"{user} {number}" for number in range(100) for user in ("short", "full")]
    results: multiprocessing.SimpleQueue[list[str]] = FORKED.SimpleQueue()
    url = engine.url.render_as_string(hide_password=False)
    children: list[BaseProcess] = [
        FORKED.Process(target=apply, args=(url, names[start::4], results)) for start in range(4)
    ]
    for child in children:
        child.start()
    told = [code for _ in children for code in results.get()]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert sorted(told) == sorted(["Queued"] * 14 + [RefusedFor.CREDITS] * 93 + [RefusedFor.QUOTA] * 93)
    with reading(engine) as session:
        of_user = dict(session.execute(sa.select(jobs.c.user_id, sa.func.count()).group_by(jobs.c.user_id)).all())
        assert (of_user["short"], of_user["full"]) == (7, 7)
        for table, state in ((credit_holds, HoldState.OPEN), (reservations, ReservationState.OPEN)):
            chosen = sa.select(sa.func.count()).select_from(table).where(table.c.state == state)
            assert session.execute(chosen).scalar_one() == 15
        assert_books_balance(session)
        assert_bytes_add_up(session)
        assert session.execute(sa.select(sa.func.count()).select_from(users)).scalar_one() == 3
    assert accounts.recount(engine) == []


def test_the_same_request_from_many_at_once_is_made_once(engine: sa.Engine) -> None:
    """Each of 4 processes asks 10 times, with the same keys: one leader, nine followers, nobody twice."""
    make_user(engine, "full", DOLLAR * 10)
    label = secrets.token_hex(3)
    names = [f"full 1 {label}-{number}" for number in range(10)]
    results: multiprocessing.SimpleQueue[list[str]] = FORKED.SimpleQueue()
    url = engine.url.render_as_string(hide_password=False)
    children: list[BaseProcess] = [FORKED.Process(target=apply, args=(url, names, results)) for _ in range(4)]
    for child in children:
        child.start()
    told = [results.get() for _ in children]
    for child in children:
        child.join()
    assert sorted(set(told[0])) == ["Joined", "Queued"]
    with reading(engine) as session:
        states = session.execute(sa.select(jobs.c.leader_id.is_(None), sa.func.count()).group_by(sa.text("1"))).all()
    assert sorted((bool(leads), count) for leads, count in states) == [(False, 9), (True, 1)]


DRAFTS = LifecyclePolicy.model_validate({"segments": [{"name": "drafts", "tags": ["draft"], "retention_days": 3}]})


def test_a_tag_is_no_part_of_the_request_and_the_first_one_stays(funded: sa.Engine) -> None:
    first = admit(funded, fox(), user_id="ann", client_key="k1", tag="draft")
    assert isinstance(first, Queued)
    joined = admit(funded, fox(), user_id="ann", client_key="k2", tag="final")
    assert isinstance(joined, Joined)
    assert joined.leader_id == first.job_id
    assert admit(funded, fox(), user_id="ann", client_key="k1", tag="final") == first
    assert (row(funded, first.job_id).tag, row(funded, joined.job_id).tag) == ("draft", "final")
    make(funded, first.job_id)
    succeed(funded, Attempt(first.job_id, claim(funded, first.job_id)), run_id="test")
    assert isinstance(admit(funded, fox(), user_id="ann", client_key="k3", tag="other"), Cached)


def test_a_price_is_for_as_long_as_the_segment_of_the_tag_keeps_the_video(funded: sa.Engine) -> None:
    whole = DEFAULTS.overridden(lifecycle=DRAFTS)
    of_draft, of_other = (price_of(fox(), "pro", whole, tag=tag) for tag in ("draft", "final"))
    for_three_days = price_of(fox(), "pro", whole.model_copy(update={"tiers": SHIPPED.keeping(3)}))
    assert of_draft.storage_microusd == for_three_days.storage_microusd < of_other.storage_microusd
    put_in_force(funded, lifecycle=DRAFTS)
    answer = admit(funded, fox(), user_id="ann", client_key="k1", tag="draft")
    assert isinstance(answer, Queued)
    assert answer.price_microusd == of_draft.total_microusd
