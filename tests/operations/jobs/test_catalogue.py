"""Requests for models that vendors bill per clip: what is refused, held, sent, and to which vendor."""

from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model.jobs import End, JobState, Served
from reelkeeper.model.money import Metric
from reelkeeper.model.requests import Cached, Declined, Queued, RefusedFor
from reelkeeper.operations.billing import metering
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.claim import claim as claim_of
from reelkeeper.operations.jobs.settle import Attempt, succeed
from reelkeeper.rules.billing.allocation import MAKING
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.dispatch import DispatchPolicy
from reelkeeper.store.billing.spend_counters import so_far
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.jobs import breakers
from reelkeeper.store.tables import alerts, blobs, charges, credit_holds, jobs, reservations, usage_days
from tests.doubles.provider import ProviderDouble
from tests.faults.world import World
from tests.operations.asking import ask, claim, fox, make, row
from tests.operations.books import DOLLAR, assert_books_balance, balances, make_user
from tests.operations.queue import enqueue, find, make_due
from tests.operations.queue import row as job_row
from tests.operations.shop import ask as ask_shop
from tests.operations.shop import http, run, spent
from tests.policies import put_in_force

READ = {"source": "a price list", "read_on": "2026-11-25"}
VEO = {
    "model": "veo",
    "limits": {"seconds": [4, 8], "resolutions": ["720p"], "audio": "choice"},
    "price": {"unit": "second", "rates": [{"audio": False, "usd": "0.2"}, {"audio": True, "usd": "0.4"}], **READ},
}
FLAT = {"base_usd": "0.1", "compute_usd": "0.05", "api_usd": "0.05"}
BOOK = PriceBook.model_validate({"models": [VEO, {"model": "unpriced"}], "margin_percent": 25})


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.fixture
def rich(engine: sa.Engine) -> sa.Engine:
    make_user(engine, "ann", 20 * DOLLAR)
    put_in_force(engine, book=BOOK)
    return engine


def assert_nothing_is_held(engine: sa.Engine) -> None:
    with reading(engine) as session:
        for table in (jobs, credit_holds, reservations):
            assert session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
    assert balances(engine, "ann") == (20 * DOLLAR, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"model": "veo"},
            snapshot("model 'veo' cannot do this: 5 seconds were asked for, and it makes 4 or 8. Nothing was held"),
        ),
        (
            {"model": "veo", "duration_seconds": 8.0, "width": 1920, "height": 1080},
            snapshot(
                "model 'veo' cannot do this: 1920x1080 pixels (1080p) were asked for, and it makes 720p. Nothing was held"
            ),
        ),
        (
            {"model": "veo", "duration_seconds": 8.0, "parameters": {"resolution": "4k"}},
            snapshot("model 'veo' cannot do this: parameter 'resolution' was set, and it takes none. Nothing was held"),
        ),
        ({"model": "unpriced"}, snapshot("model 'unpriced' is not sold here; there are: veo. Nothing was held")),
        ({"model": "sora"}, snapshot("model 'sora' is not sold here; there are: veo. Nothing was held")),
    ],
)
def test_a_request_beyond_a_model_is_refused_and_nothing_is_held(
    rich: sa.Engine, options: dict[str, object], said: str
) -> None:
    answer = ask(rich, "k", fox(**options))
    assert isinstance(answer, Declined)
    assert answer.code == RefusedFor.MODEL
    assert answer.reason == said
    assert_nothing_is_held(rich)


def test_the_hold_follows_length_and_sound_and_covers_the_vendors_price(rich: sa.Engine) -> None:
    held = {}
    for seconds, audio, vendor_usd in ((4, False, "0.8"), (8, False, "1.6"), (8, True, "3.2"), (4, None, "1.6")):
        answer = ask(rich, f"{seconds} {audio}", fox(model="veo", duration_seconds=float(seconds), audio=audio))
        assert isinstance(answer, Queued)
        held[seconds, audio] = answer.price_microusd
        quoted = row(rich, answer.job_id).quoted_cost_microusd
        vendor = Decimal(vendor_usd) * DOLLAR
        assert vendor < quoted < vendor + 10_000  # its storage for a month
        assert vendor * Decimal("1.25") <= answer.price_microusd <= quoted * Decimal("1.25") + 1
        assert answer.price_book == BOOK.mark
    assert held[8, False] > held[4, False]
    assert balances(rich, "ann")[1] == sum(held.values())


def test_a_cached_video_of_a_removed_model_is_free_but_refused_where_hits_are_charged(rich: sa.Engine) -> None:
    wanted = fox(model="veo", duration_seconds=8.0)
    job = ask(rich, "k1", wanted)
    assert isinstance(job, Queued)
    make(rich, job.job_id)
    succeed(rich, Attempt(job.job_id, claim(rich, job.job_id)), run_id="test")
    other = PriceBook.model_validate({"models": [VEO | {"model": "another"}]})
    assert isinstance(ask(rich, "k2", wanted, book=other), Cached)
    charged = ask(rich, "k3", wanted, book=other, admission=AdmissionPolicy(hit_charge_percent=50))
    assert isinstance(charged, Declined)
    assert charged.code == RefusedFor.MODEL


def sold_by(provider: str | None, **more: object) -> PriceBook:
    entry = {"model": "a", "provider": provider, "vendor_model": "lab/a-1", "price": FLAT, **more}
    return PriceBook.model_validate({"models": [entry]})


def test_a_job_waits_for_the_provider_that_makes_its_model(shop: World, provider: ProviderDouble) -> None:
    put_in_force(shop.workspace.engine, book=sold_by("fal"))
    (job_id,) = ask_shop(shop, "a cat")
    assert run(shop, http(provider)) == {}
    put_in_force(shop.workspace.engine, book=PriceBook())  # nobody knows any more, but by its version
    assert run(shop, http(provider)) == {End.RETRIED: 1}
    job = find(shop.workspace.engine, job_id)
    assert (job.state, job.attempts, len(provider.submitted)) == (JobState.QUEUED, 0, 0)
    assert "'fal'" in job.error


def test_a_vendor_is_sent_its_own_name_of_the_model_and_what_was_quoted_of_sound(
    shop: World, provider: ProviderDouble
) -> None:
    put_in_force(shop.workspace.engine, book=sold_by("http", limits={"audio": "choice"}))
    ask_shop(shop, "a cat")
    put_in_force(shop.workspace.engine, book=sold_by("http", vendor_model="lab/a-2"))  # not what it was quoted for
    assert run(shop, http(provider, model="lab/all")) == {End.SUCCEEDED: 1}
    (sent,) = provider.jobs.values()
    assert (sent["model"], sent["request"]["audio"]) == ("lab/a-1", True)
    assert spent(shop) > 100_000


@pytest.mark.parametrize(
    ("made", "share"), [(8.04, 1), (7.9, 1), (4.04, Decimal("0.5")), (1.0, Decimal("0.5")), (30.0, 1)]
)
def test_a_clip_that_came_shorter_is_charged_at_its_length_and_never_above_the_hold(
    rich: sa.Engine, made: float, share: Decimal
) -> None:
    job = ask(rich, "k", fox(model="veo", duration_seconds=8.0))
    assert isinstance(job, Queued)
    make(rich, job.job_id)
    with transaction(rich, "test") as session:
        session.execute(sa.update(blobs).values(duration_seconds=made))
    token = claim(rich, job.job_id)
    put_in_force(rich, book=PriceBook())  # the job keeps the prices that it was admitted under
    done = succeed(rich, Attempt(job.job_id, token), run_id="test")
    assert abs(done.charged_microusd - job.price_microusd * share) <= 1
    assert done.charged_microusd <= job.price_microusd
    assert balances(rich, "ann") == (20 * DOLLAR - done.charged_microusd, 0)
    assert succeed(rich, Attempt(job.job_id, token), run_id="test") == done
    with reading(rich) as session:
        assert_books_balance(session)


def test_a_shorter_clip_of_a_length_that_only_another_provider_sells_is_charged_at_its_length(rich: sa.Engine) -> None:
    local = {"provider": "local", "limits": {"most_seconds": 8, "audio": "choice"}, "price": VEO["price"]}
    put_in_force(rich, book=PriceBook.model_validate({"models": [VEO | {"provider": "fal", "offers": [local]}]}))
    put = fox(model="veo", duration_seconds=8.0)
    with transaction(rich, "test") as session:  # fal takes no more, so the job goes to the other
        breakers.write(session, "fal", {"until": (now(session) + timedelta(hours=1)).isoformat()})
    job = ask(rich, "k", put)
    assert isinstance(job, Queued)
    assert find(rich, job.job_id).lane == "local"
    make(rich, job.job_id)
    with transaction(rich, "test") as session:
        session.execute(sa.update(blobs).values(duration_seconds=5.2))
    done = succeed(rich, Attempt(job.job_id, claim(rich, job.job_id)), run_id="test")
    assert abs(done.charged_microusd - job.price_microusd * 6 // 8) <= 1
    assert balances(rich, "ann") == (20 * DOLLAR - done.charged_microusd, 0)


def test_a_vendors_charge_above_the_quote_is_ours_counts_as_spent_and_is_reported(
    shop: World, provider: ProviderDouble
) -> None:
    put_in_force(shop.workspace.engine, book=sold_by("http"))
    (job_id,) = ask_shop(shop, "a cat")
    provider.ends_as["cost_usd"] = "0.15"
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    job = find(shop.workspace.engine, job_id)
    assert (job.cost_microusd, spent(shop)) == (150_000, job.price_microusd)
    assert job.quoted_cost_microusd < 110_000
    with reading(shop.workspace.engine) as session:
        assert so_far(session, now(session)).today_microusd == job.quoted_cost_microusd - 100_000 + 150_000
        told = session.execute(sa.select(alerts.c.rule, alerts.c.scope, alerts.c.text)).one()
    assert (told.rule, told.scope) == ("vendor_cost", "model:a")
    assert told.text.replace(job_id, "JOB") == snapshot(
        "$0.1500 for job JOB, which the book has at $0.1000. Budgets, the bill and the choice between offers follow what it takes. Users pay what they were quoted."
    )
    provider.ends_as["cost_usd"] = "0.09"
    ask_shop(shop, "a dog")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    with reading(shop.workspace.engine) as session:
        assert session.execute(sa.select(sa.func.count()).select_from(alerts)).scalar_one() == 1


@pytest.mark.parametrize(("told", "account", "user"), [(None, 3_200_000, 3_200_000), (3_000_000,) * 3, (0, 0, 0)])
def test_the_cost_of_clips_is_counted_for_the_account_and_the_user(
    rich: sa.Engine, told: int | None, account: int, user: int
) -> None:
    assert counted(rich, told) == {"": account, "ann": user}


def test_the_cost_of_clips_is_counted_for_the_account_and_for_the_user_up_to_the_expected_cost(rich: sa.Engine) -> None:
    assert counted(rich, 3_500_000) == {"": 3_500_000, "ann": 3_200_000}
    assert billed(rich, BOOK) == {("clips-local:veo", ""): 300_000, ("clips-local:veo", "ann"): 3_200_000}


def test_what_a_provider_reports_is_billed_in_place_of_a_flat_price(shop: World, provider: ProviderDouble) -> None:
    book = sold_by("http")
    put_in_force(shop.workspace.engine, book=book)
    del provider.ends_as["cost_usd"]
    ask_shop(shop, "a cat")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    flat = {("compute-http:a", "ann"): 50_000, ("api-http:a", "ann"): 50_000}
    assert billed(shop.workspace.engine, book) == flat
    for prompt, told in (("a dog", "0.15"), ("a fox", "0.09")):
        provider.ends_as["cost_usd"] = told
        ask_shop(shop, prompt)
        assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    # a user pays at most the expected cost of a job
    clips = {("clips-http:a", ""): 50_000, ("clips-http:a", "ann"): 190_000}
    assert billed(shop.workspace.engine, book) == flat | clips


@pytest.mark.parametrize("price", [{"unit": "clip", "rates": [{"usd": "0.1"}], **READ}, FLAT])
def test_a_vendors_charge_for_a_failed_attempt_is_billed_to_no_user(
    shop: World, provider: ProviderDouble, price: dict[str, object]
) -> None:
    put_in_force(shop.workspace.engine, book=sold_by("http", price=price))
    ask_shop(shop, "a cat")
    provider.ends_as |= {"status": "failed", "cost_usd": "0.1"}
    for end in (End.RETRIED, End.DEAD):  # it may be tried twice
        assert run(shop, http(provider)) == {end: 1}
        make_due(shop.workspace.engine)
    assert spent(shop) == 0
    assert clips_of(shop.workspace.engine) == {"": 200_000}


def counted(engine: sa.Engine, told: int | None) -> dict[str, int]:
    """Make a clip of eight seconds, whose vendor reports its cost, and return what was counted for whom."""
    job = ask(engine, "k", fox(model="veo", duration_seconds=8.0))
    assert isinstance(job, Queued)
    make(engine, job.job_id)
    succeed(engine, Attempt(job.job_id, claim(engine, job.job_id), cost_microusd=told), run_id="test")
    return clips_of(engine)


def clips_of(engine: sa.Engine) -> dict[str, int]:
    chosen = sa.select(usage_days.c.user_id, usage_days.c.quantity).where(usage_days.c.metric == Metric.JOB_MICROUSD)
    with reading(engine) as session:
        return {row.user_id: row.quantity for row in session.execute(chosen)}


def billed(engine: sa.Engine, book: PriceBook) -> dict[tuple[str, str], int]:
    """Charge the month, and return what generation cost by SKU and user, in micro-dollars."""
    with reading(engine) as session:
        today = now(session)
    metering.charge(engine, book, today)
    chosen = sa.select(charges.c.sku, charges.c.user_id, charges.c.billed_nanousd).where(
        charges.c.service.in_(MAKING), charges.c.billed_nanousd != 0
    )
    with reading(engine) as session:
        return {(row.sku, row.user_id): row.billed_nanousd // 1_000 for row in session.execute(chosen)}


def test_of_several_vendors_none_is_guessed_for_a_model_that_the_catalogue_gives_to_nobody(engine: sa.Engine) -> None:
    make_user(engine, "ann", 100 * DOLLAR)
    answer = admit(engine, fox(), user_id="ann", client_key="k", provider=None)
    assert isinstance(answer, Declined)
    assert answer.code is RefusedFor.MODEL
    assert balances(engine, "ann") == (100 * DOLLAR, 0)


@pytest.mark.parametrize("order", [None, DispatchPolicy(rule="seed")], ids=["by stored scores", "by the whole queue"])
def test_a_worker_of_several_vendors_leaves_a_job_alone_that_it_has_no_vendor_for(
    engine: sa.Engine, order: DispatchPolicy | None
) -> None:
    make_user(engine, "ann", 1)
    enqueue(engine, *(job_row(name, lane=name) for name in ("fal", "runway", "http")))
    several = Served(frozenset({"fal", "runway"}), None)
    for served, names in ((several, {"fal", "runway"}), (several._replace(default="fal"), {"http"})):
        assert {job.id for job in claim_of(engine, "w", [None] * 9, limit=9, order=order, served=served)} == names
