"""`queue` and `performance`: waiting jobs in order with explanations, dead jobs, and performance figures."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Window
from reelkeeper.operations.jobs.breaker import note_failed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.settings import Settings
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import open_store, transaction
from reelkeeper.store.health import performance
from reelkeeper.store.jobs import lanes
from reelkeeper.store.jobs.slots import CONCURRENCY
from reelkeeper.store.tables import jobs, users
from tests.cli.conftest import Run
from tests.jobs import dead, hit, made, put, waiting
from tests.policies import put_in_force
from tests.reading import as_read

CLOCK = re.compile(r"\d\d:\d\d:\d\d")


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


@pytest.fixture
def engine_of_the_command(configured: Settings) -> Iterator[sa.Engine]:
    with open_store(configured) as engine:
        with transaction(engine, "test") as session:
            session.execute(sa.insert(users).values(id="ann", tier="free"))
        yield engine


@pytest.fixture
def busy(engine_of_the_command: sa.Engine) -> None:
    """A long job waits, then a short one; one follows, one is put off; one runs, two are over, one died."""
    put(
        engine_of_the_command,
        [
            waiting("long", ago(9), estimate_seconds=400.0),
            waiting("short", ago(5), estimate_seconds=130.0),
            waiting("follower", ago(4), leader_id="long"),
            waiting("put-off", ago(30), due_at=ago(-30.3), attempts=2, error="busy"),
            waiting("running", ago(8), state=JobState.RUNNING, started_at=ago(3), progress=0.5, claimed_by="w1"),
            made("over", ago(20), took=100, wait=30),
            hit("hit", ago(2)),
            dead("died", ago(10), "[red]out of memory", cost_microusd=5_000, attempts=5),
        ],
    )


@pytest.mark.usefixtures("busy")
def test_waiting_jobs_are_listed_in_their_starting_order(reelkeeper: Run, ask: Callable[..., Any]) -> None:
    found = ask("queue")
    assert [item["id"] for item in found["queued"]] == ["short", "long", "put-off", "follower"]
    assert [item["id"] for item in found["running"]] == ["running"]
    assert [item["id"] for item in found["dead"]] == ["died"]
    assert found["counts"] == {"dead": 1, "queued": 4, "running": 1, "succeeded": 2}
    said = reelkeeper("queue").stdout
    assert as_read(said, only="follower", n=re.compile(r"\d+(?= s)")) == snapshot(
        "follower ann free svd <n> s <n> s 0 waits for long"
    )
    assert "[red]out of memory" in said
    assert "w1" in said
    assert as_read(reelkeeper("queue", "--limit", 1).stdout, only="queued: 4") == snapshot("queued: 4, 1 shown")


@pytest.mark.usefixtures("busy")
def test_each_vendor_is_shown_with_all_that_limits_it(
    reelkeeper: Run, ask: Callable[..., Any], engine_of_the_command: sa.Engine
) -> None:
    price = {"unit": "second", "rates": [{"usd": "0.1"}], "source": "a list", "read_on": "2026-11-28"}
    book = PriceBook.model_validate({"models": [{"model": "veo", "provider": "fal", "price": price}]})
    limited = AdmissionPolicy(spend_limits=(SpendLimit(scope="provider:fal", usd=Decimal(5)),))
    put_in_force(engine_of_the_command, book=book, admission=limited)
    until = datetime.now(UTC) + timedelta(minutes=5)
    with transaction(engine_of_the_command, "test") as session:
        lanes.write(session, "fal", {"limit": 2, "until": until.isoformat(), "is_shut": True})
    put(engine_of_the_command, [waiting("waits", ago(1), lane="fal", model="veo")])
    (fal,) = ask("queue")["vendors"]
    assert (fal["state"], fal["limit"], fal["budget_left_microusd"]) == ("held", 2, 5_000_000)
    assert as_read(reelkeeper("queue").stdout, only="fal held", n=re.compile(r"\d+(?= s)")) == snapshot(
        "fal held 0 of 2 0 for <n> s $5.00 $0.100"
    )
    assert len(ask("queue", "--explain", "waits")["full"]) == 1


@pytest.mark.usefixtures("busy")
def test_dead_jobs_can_be_listed_alone(reelkeeper: Run, ask: Callable[..., Any]) -> None:
    assert ask("queue", "--dead").keys() == {"jobs_at_once", "jobs_at_once_by_provider", "counts", "dead"}
    said = reelkeeper("queue", "--dead").stdout
    assert "died" in said
    assert "short" not in said


@pytest.mark.long
@pytest.mark.usefixtures("busy")
def test_a_job_that_waits_for_a_cap_is_shown_as_such(reelkeeper: Run, engine_of_the_command: sa.Engine) -> None:
    caps = (Cap(scope="user:*", jobs=1), Cap(scope="tier:free", jobs=9))
    put_in_force(engine_of_the_command, concurrency=ConcurrencyPolicy(caps=caps))
    said = reelkeeper("queue", "--explain", "long").stdout
    assert as_read(said) == snapshot(
        "Job long waits: user ann has 1 job running, and may have 1. The jobs behind it go on."
    )


@pytest.mark.usefixtures("busy")
def test_a_job_that_waits_for_its_providers_tuned_limit_is_shown_as_such(
    reelkeeper: Run, engine_of_the_command: sa.Engine
) -> None:
    kept = {"limit": 9, "lanes": {"fal": {"limit": 1}, "ltx": {"limit": 8}}}
    with transaction(engine_of_the_command, "test") as session:
        controls.write(session, CONCURRENCY, kept)
        session.execute(sa.update(jobs).where(jobs.c.id.in_(["long", "running"])).values(lane="fal"))
    said = reelkeeper("queue", "--explain", "long").stdout
    assert as_read(said) == snapshot(
        "Job long waits: provider fal has 1 job running, and may have 1. The jobs behind it go on."
    )
    assert as_read(reelkeeper("queue").stdout, only="tune_concurrency") == snapshot(
        "At most 9 at once, 1 of fal, 8 of ltx, as set by tune_concurrency."
    )


@pytest.mark.usefixtures("busy")
def test_a_job_that_waits_for_an_unwell_provider_is_shown_as_such(
    reelkeeper: Run, engine_of_the_command: sa.Engine
) -> None:
    with transaction(engine_of_the_command, "test") as session:
        session.execute(sa.update(jobs).where(jobs.c.id == "long").values(lane="fal"))
    note_failed(engine_of_the_command, "fal", "j", "402, no balance", is_locked=True, run_id="test")
    said = reelkeeper("queue", "--explain", "long").stdout
    assert as_read(said, at=CLOCK) == snapshot("""\
Job long waits: provider fal is failing and gets no job until <at> UTC: 402, no balance. The
  jobs behind it go on.\
""")
    assert as_read(reelkeeper("status").stdout, only="provider fal", at=CLOCK) == snapshot("""\
✗ The provider fal lets our account in no more
provider fal unwell no job until <at>\
""")


@pytest.mark.usefixtures("busy")
def test_a_place_is_explained_by_its_terms(reelkeeper: Run, ask: Callable[..., Any]) -> None:
    found = ask("queue", "--explain", "long")
    assert (found["place"], found["of"]) == (2, 2)
    assert [term["name"] for term in found["terms"]] == ["size", "tier", "backlog", "wait"]
    said = reelkeeper("queue", "--explain", "long").stdout
    assert as_read(said.splitlines()[0]) == snapshot("Job long is 2 of the 2 that are considered next.")
    assert as_read(said, only="400 s") == snapshot(
        "size 19200 400 s estimated, each of which counts as 48 s of waiting: 19200 s"
    )
    assert as_read(reelkeeper("queue", "--explain", "put-off").stdout.splitlines()[0]) == snapshot(
        "Job put-off is 1 of the 3 that are considered next. It is due in 30 min, after: busy."
    )
    assert as_read(reelkeeper("queue", "--explain", "follower").stdout) == snapshot(
        "Job follower is queued. It joined job long, which makes the same video, and waits for that."
    )
    assert as_read(reelkeeper("queue", "--explain", "died").stdout) == snapshot("Job died is dead. [red]out of memory")
    reelkeeper("queue", "--explain", "nobody", exit_code=8)


@pytest.mark.usefixtures("engine_of_the_command")
def test_an_empty_queue_says_so(reelkeeper: Run) -> None:
    assert as_read(reelkeeper("queue").stdout) == snapshot("No job is waiting, running or dead.")
    assert as_read(reelkeeper("queue", "--dead").stdout) == snapshot("No job is dead.")
    assert as_read(reelkeeper("performance").stdout) == snapshot("""\
Jobs that ended in the last 1 h
of ended succeeded wait, mean / p95 processing, mean / p95 a job costs cache hits
all 0 - - / - - / - - -
0 wait; 0 run.\
""")
    assert as_read(reelkeeper("performance", "--windows").stdout) == snapshot(
        "Nothing is recorded for that time: the flow monitor_performance records every 15 minutes."
    )


@pytest.mark.usefixtures("busy")
def test_performance_is_shown_by_model_and_tier(reelkeeper: Run, ask: Callable[..., Any]) -> None:
    found = ask("performance")
    everything, *_ = (group for group in found["groups"] if not group["tier"] and not group["model"])
    assert (everything["made"], everything["dead"], everything["cache_hits"]) == (1, 1, 1)
    assert (everything["processing_p99_seconds"], found["queue"]["queued"]) == (100, 3)
    said = reelkeeper("performance").stdout
    assert "model svd" in said
    assert "tier free" in said
    assert as_read(said) == snapshot("""\
Jobs that ended in the last 1 h
of ended succeeded wait, mean / p95 processing, mean / p95 a job costs cache hits
all 3 50 % 45 s / 60 s 100 s / 100 s $0.0075 50 %
model svd 3 50 % 45 s / 60 s 100 s / 100 s $0.0075 50 %
tier free 3 50 % 45 s / 60 s 100 s / 100 s $0.0075 50 %
3 wait, the oldest for 30 min; 1 run.\
""")
    assert ask("performance", "--hours", 0.25)["groups"][0]["made"] == 0
    reelkeeper("performance", "--model", "svd", exit_code=2)


def test_recorded_windows_are_shown_of_all_or_of_one_model(
    engine_of_the_command: sa.Engine, reelkeeper: Run, ask: Callable[..., Any]
) -> None:
    start_at = ago(30)
    windows = [
        Window(start_at, 900, "", model, {"ended": n, "wait_mean_seconds": None}) for model, n in (("", 7), ("svd", 3))
    ]
    with transaction(engine_of_the_command, "test") as session:
        performance.record(session, windows)
    assert [item["figures"]["ended"] for item in ask("performance", "--windows")] == [7]
    assert [item["figures"]["ended"] for item in ask("performance", "--windows", "--model", "svd")] == [3]
    minute = f"{start_at:%Y-%m-%d %H:%M}"
    assert minute in reelkeeper("performance", "--windows").stdout


def test_a_parked_job_says_until_when_its_credits_are_held(reelkeeper: Run, engine_of_the_command: sa.Engine) -> None:
    doubt = waiting("j", ago(8), state=JobState.PARKED, started_at=ago(3), due_at=ago(-1.9), error="it answered 500")
    put(engine_of_the_command, [doubt])
    said = reelkeeper("queue", "--explain", "j").stdout
    until = f"{ago(3 - 24 * 60):%Y-%m-%d %H:%M}"
    assert as_read(said, until=until, in_two_minutes=re.compile(r"11\d s")) == snapshot("""\
Job j is parked. it answered 500. Its provider may have it, and is asked again in
  <in_two_minutes>. Its credits are held meanwhile; if nothing is known by <until> UTC, it is
  given up at no charge.\
""")
