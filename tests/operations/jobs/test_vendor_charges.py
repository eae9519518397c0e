"""What vendors charge, or may charge, for jobs that bring no video: each job made counts once, at every vendor."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import OpenAIProvider, RemoteGenerator
from reelkeeper.model.jobs import End, JobState
from reelkeeper.model.money import Metric, SentJob
from reelkeeper.operations.jobs import charged
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import audit_events, job_totals, jobs, usage_days, vendor_jobs
from tests.adapters.providers.formats import FORMATS
from tests.doubles.fal import FalDouble
from tests.doubles.provider import ProviderDouble
from tests.doubles.runway import _FAILURES, CREDITS
from tests.doubles.vendor import LOST, Job
from tests.faults.world import World
from tests.operations.jobs.test_vendor_bill import compared
from tests.operations.queue import find, make_due
from tests.operations.shop import ask, budget_spent, http, run, spent

PRICE = None  # the quoted cost of a job
_CREDIT = 10_000  # micro-dollars


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database, but where rows are locked."""
    return sqlite_engine


def billed_for_nothing(world: World) -> int:
    """What the account's bill has for the model's jobs, a delivered one's flat price apart."""
    column = usage_days.c
    wanted = sa.select(sa.func.coalesce(sa.func.sum(column.quantity), 0)).where(
        column.metric == Metric.JOB_MICROUSD, column.user_id == ""
    )
    with reading(world.workspace.engine) as session:
        return int(session.execute(wanted).scalar_one())


def spent_by(world: World, scope: str) -> int:
    column = job_totals.c
    wanted = sa.select(column.microusd).where(column.scope == scope, sa.func.length(column.period) == 10)
    with reading(world.workspace.engine) as session:
        return int(session.execute(wanted).scalar() or 0)


@pytest.mark.parametrize(
    ("name", "ends", "each"),
    [
        ("fal", "failed", 0),  # a 5xx is never charged
        ("fal", "moderated", PRICE),  # a 422 may be
        ("replicate", "failed", PRICE),
        ("replicate", "moderated", PRICE),
        ("runway", "failed", 0),  # by the task's own word
        ("runway", "moderated", CREDITS * _CREDIT),
        ("openrouter", "failed", PRICE),
        ("openrouter", "moderated", PRICE),
        ("openai", "failed", PRICE),
        ("openai", "moderated", PRICE),
        ("comfyui", "failed", 0),
        ("comfyui", "moderated", 0),
    ],
)
def test_each_job_made_for_nothing_counts_where_its_vendor_may_charge_for_it(
    shop: World, tiny_clip: Path, name: str, ends: str, each: int | None
) -> None:
    with FORMATS[name].double(tiny_clip.read_bytes()).serving() as vendor:
        vendor.end_as(ends)
        generator = RemoteGenerator(FORMATS[name].connect(vendor), model=FORMATS[name].model, poll_seconds=0.02)
        (job_id,) = ask(shop, "a cat")
        run(shop, generator)
        made = 1
        if ends == "failed":
            make_due(shop.workspace.engine)
            run(shop, generator)
            made = 2
        assert len(vendor.jobs) == made
    job = find(shop.workspace.engine, job_id)
    assert job.state == JobState.DEAD
    total = made * (job.quoted_cost_microusd if each is None else each)
    assert (budget_spent(shop), billed_for_nothing(shop), spent(shop)) == (total, total, 0)
    assert spent_by(shop, f"provider:{name}") == spent_by(shop, "user:ann") == total


@pytest.mark.parametrize(
    "code",
    [
        "SAFETY.OUTPUT.VIDEO",
        "INPUT_PREPROCESSING.SAFETY.TEXT",
        "INPUT_PREPROCESSING.SAFETY.THIRD_PARTY",
        "ASSET.INVALID",
    ],
)
def test_what_runway_will_never_make_is_sent_and_paid_once(
    shop: World, tiny_clip: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_FAILURES, "moderated", {"failure": "It was blocked.", "failureCode": code})
    with FORMATS["runway"].double(tiny_clip.read_bytes()).serving() as vendor:
        vendor.end_as("moderated")
        generator = RemoteGenerator(FORMATS["runway"].connect(vendor), model=FORMATS["runway"].model, poll_seconds=0.02)
        ask(shop, "a cat")
        assert run(shop, generator) == {End.REFUSED: 1}
        assert len(vendor.submitted) == 1
    assert budget_spent(shop) == CREDITS * _CREDIT


@pytest.mark.parametrize(("units", "each"), [("0", 0), ("0.0", 0), ("2.5", 250_000), ("nan", PRICE), ("-1", PRICE)])
def test_fals_own_word_goes_before_the_table(
    shop: World, tiny_clip: Path, units: str, each: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = FalDouble._result

    def with_units(double: FalDouble, job: Job) -> Any:  # noqa: ANN401  an answer of the double
        answer: Any = plain(double, job)  # with headers, as it is over
        return *answer[:2], answer[2] | {"x-fal-billable-units": units}

    monkeypatch.setattr(FalDouble, "_result", with_units)
    with FalDouble(tiny_clip.read_bytes()).serving() as fal:
        fal.end_as("moderated")
        (job_id,) = ask(shop, "a cat")
        assert run(shop, RemoteGenerator(FORMATS["fal"].connect(fal), model=FORMATS["fal"].model)) == {End.REFUSED: 1}
    expected = find(shop.workspace.engine, job_id).quoted_cost_microusd if each is None else each
    assert budget_spent(shop) == expected


def test_a_failure_that_fal_charges_units_for_counts(shop: World, tiny_clip: Path) -> None:
    typed = {"X-Fal-Error-Type": "runner_disconnected", "x-fal-billable-units": "5"}
    with FalDouble(tiny_clip.read_bytes()).serving() as fal:
        fal.reads = [(200, {"status": "COMPLETED"}), (503, {"detail": "gone"}, typed)]
        ask(shop, "a cat")
        generator = RemoteGenerator(FORMATS["fal"].connect(fal), model=FORMATS["fal"].model)
        assert run(shop, generator) == {End.RETRIED: 1}
    assert budget_spent(shop) == 5 * fal.second_nanousd // 1_000


def test_a_request_refused_by_the_post_costs_nothing_anywhere(shop: World, tiny_clip: Path) -> None:
    with FORMATS["openai"].double(tiny_clip.read_bytes()).serving() as vendor:
        vendor.queue = [vendor.refusal(400, "blocked by our moderation system")]
        ask(shop, "a cat")
        generator = RemoteGenerator(FORMATS["openai"].connect(vendor), model="wan3")
        assert run(shop, generator) == {End.REFUSED: 1}
        assert vendor.jobs == {}
    assert budget_spent(shop) == 0


def test_a_request_with_three_jobs_at_its_vendor_counts_three_and_is_compared_as_three(
    shop: World, tiny_clip: Path
) -> None:
    """That vendor lists its jobs by its own ids alone, so the earlier ones must have been kept."""
    fates: dict[str, int] = {}

    def fate(job: Job) -> str:
        prompt = str(job["form"]["prompt"])
        fates[prompt] = fates.get(prompt, 0) + 1
        return "failed" if prompt == "a dog" and fates[prompt] < 3 else "succeeded"

    with FORMATS["openai"].double(tiny_clip.read_bytes()).serving() as vendor:
        vendor.fate = fate
        provider = FORMATS["openai"].connect(vendor)
        assert isinstance(provider, OpenAIProvider)
        made = ask(shop, "a cat", "a dog")
        for _ in range(3):
            run(shop, RemoteGenerator(provider, model="wan3", poll_seconds=0.02), attempts=AttemptPolicy())
            make_due(shop.workspace.engine)
        assert len(vendor.jobs) == 4
        found = compared(shop, provider)
    quoted = [find(shop.workspace.engine, job_id).quoted_cost_microusd for job_id in made]
    assert budget_spent(shop) == quoted[0] + 3 * quoted[1]
    assert {bill.vendor_id for bill in found.both} == {"p1", "p2", "p3", "p4"}
    assert (found.requests, found.only_ours, found.only_theirs) == (2, (), ())
    assert billed_for_nothing(shop) == 2 * quoted[1]


def test_a_job_given_up_in_doubt_and_found_later_counts_once(shop: World, provider: ProviderDouble) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.is_down = True
    assert run(shop, http(provider)) == {End.PARKED: 1}
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-25 * 3600), due_at=Clock(-1)))
    assert run(shop, http(provider)) == {End.DEAD: 1}
    quoted = find(shop.workspace.engine, job_id).quoted_cost_microusd
    assert (budget_spent(shop), billed_for_nothing(shop)) == (quoted, quoted)
    provider.is_down = False
    claiming.redrive(shop.workspace.engine, job_id, author="test")
    run(shop, http(provider))
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.jobs) == 1
    assert budget_spent(shop) == spent_by(shop, "provider:http") == quoted - 15_000 + 12_346
    assert billed_for_nothing(shop) == 12_346  # as it was reported
    with reading(shop.workspace.engine) as session:
        row = session.execute(sa.select(vendor_jobs)).one()
    assert (row.job_id, row.counted_microusd, row.reported_microusd) == (job_id, 12_346, 12_346)


def test_what_may_be_charged_ends_by_the_vendors_account_on_a_persons_word(shop: World, tiny_clip: Path) -> None:
    engine = shop.workspace.engine
    with FORMATS["openai"].double(tiny_clip.read_bytes()).serving() as vendor:
        provider = FORMATS["openai"].connect(vendor)
        assert isinstance(provider, OpenAIProvider)
        generator = RemoteGenerator(provider, model="wan3", poll_seconds=0.02)
        ask(shop, "a cat")
        assert run(shop, generator) == {End.SUCCEEDED: 1}
        vendor.queue = [LOST]  # made there, and nobody learns its name
        ask(shop, "a dog")
        assert run(shop, generator) == {End.PARKED: 1}
        vendor.is_dead = True  # this one never comes
        (lost,) = ask(shop, "a cow")
        run(shop, generator)
        vendor.is_dead = False
        with transaction(engine, "test") as session:
            session.execute(sa.update(jobs).values(started_at=Clock(-25 * 3600), due_at=Clock(-1)))
        run(shop, generator)
        first = datetime.now(UTC).date() - timedelta(2)
        assert charged.doubts_to_end(engine, compared(shop, provider, 2), first) == [], "it came an instant ago"
        with transaction(engine, "test") as session:
            session.execute(sa.update(vendor_jobs).values(sent_at=Clock(-25 * 3600)))
        found = compared(shop, provider, 2)
    quoted = find(engine, lost).quoted_cost_microusd
    assert budget_spent(shop) == 3 * quoted
    never_came = charged.doubts_to_end(engine, found, first)
    assert [job.cost_microusd for job in never_came] == [quoted]
    for ended in (quoted, 0):
        assert charged.end_doubts(engine, never_came, author="ann", run_id="test") == ended
        assert (budget_spent(shop), billed_for_nothing(shop)) == (2 * quoted, quoted)
    with reading(engine) as session:
        told = session.execute(sa.select(audit_events).where(audit_events.c.event == "doubt_ended")).one()
    assert (told.detail["microusd"], told.detail["by"]) == (quoted, "ann")


def test_a_job_that_was_found_meanwhile_counts_as_it_is_known(shop: World, provider: ProviderDouble) -> None:
    (job_id,) = ask(shop, "a cat")
    provider.is_down = True
    run(shop, http(provider))
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-25 * 3600), due_at=Clock(-1)))
    assert run(shop, http(provider)) == {End.DEAD: 1}
    quoted = find(shop.workspace.engine, job_id).quoted_cost_microusd
    with reading(shop.workspace.engine) as session:
        row = session.execute(sa.select(vendor_jobs)).one()
    seen = SentJob(job_id, row.key, None, row.sent_at, row.ended_at, quoted)
    for values in ({"vendor_id": "p9"}, {"vendor_id": None, "counted_microusd": quoted + 1}):
        with transaction(shop.workspace.engine, "test") as session:
            session.execute(sa.update(vendor_jobs).values(**values))
        assert charged.end_doubts(shop.workspace.engine, [seen], author="ann", run_id="test") == 0
    assert budget_spent(shop) == quoted


def test_a_result_that_is_no_video_is_paid_and_counts(shop: World, provider: ProviderDouble) -> None:
    provider.video = b"<html>not a video</html>"
    provider.ends_as["cost_usd"] = None
    (job_id,) = ask(shop, "a cat")
    for _ in range(2):
        run(shop, http(provider))
        make_due(shop.workspace.engine)
    quoted = find(shop.workspace.engine, job_id).quoted_cost_microusd
    assert budget_spent(shop) == len(provider.jobs) * quoted


def test_what_no_vendor_took_leaves_no_job_there(shop: World, provider: ProviderDouble) -> None:
    ask(shop, "a cat")
    provider.queue = [(429, None, {"Retry-After": "1"})]
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    with reading(shop.workspace.engine) as session:
        assert session.execute(sa.select(vendor_jobs)).all() == []


def test_a_job_that_was_never_sent_counts_nowhere(shop: World, provider: ProviderDouble) -> None:
    """Its own worker fails it before each attempt to send it, until it is given up."""
    generator = http(provider)

    def break_off(*_: object) -> None:
        raise OSError("no more file handles")

    generator.make = break_off  # type: ignore[method-assign,assignment]  # before anything is sent
    ask(shop, "a cat")
    for end in (End.RETRIED, End.DEAD):
        assert run(shop, generator) == {end: 1}
        make_due(shop.workspace.engine)
    assert (budget_spent(shop), provider.submitted) == (0, [])
