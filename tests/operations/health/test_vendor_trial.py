"""A vendor is tried with one clip, for what a person has agreed to; what it does not show relies on nothing."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
import sqlalchemy as sa

from reelkeeper import failpoints
from reelkeeper.errors import Frozen, Misconfigured, Refused
from reelkeeper.model.money import Metric
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.health.vendor_trial import Patience, Trial, carry_out, plan
from reelkeeper.operations.jobs.claim import name_sent
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.settings import Settings
from reelkeeper.store.billing import job_totals, spend_counters, usage
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import now, reading
from tests.adapters.providers.formats import FORMATS, HOOK, Format
from tests.doubles.fal import FalDouble
from tests.doubles.replicate import SIGNING_SECRET, ReplicateDouble
from tests.doubles.vendor import FAULT, LOST, TOKEN, Job, Vendor
from tests.policies import put_in_force

DOLLAR, LISTED = 1_000_000, 250_000  # micro-dollars; of the cheapest clip
PARTS = ("look-up", "look-up at its end", "webhook", "cost", "delete", "cancel")
SHOWN = {  # by each vendor, of these parts; all show the others
    "fal": "ok ok ok ok ok ok",
    "replicate": "ok ok ok warn warn ok",
    "runway": "warn warn warn warn ok warn",
    "openrouter": "warn warn ok warn warn warn",
    "openai": "warn warn warn warn ok warn",
    "comfyui": "ok ok warn warn ok ok",
    "http": "ok ok warn warn ok ok",
}
FAL = pytest.mark.parametrize("format_", ["fal"], indirect=True)


@pytest.fixture(params=SHOWN)
def format_(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.fixture
def name(format_: Format, vendor: Vendor) -> str:
    return format_.connect(vendor).name


@pytest.fixture
def settings(name: str, vendor: Vendor, engine: sa.Engine, format_: Format) -> Settings:
    """The vendor's key, its webhook, and two models in the catalogue, one of which costs more."""
    rates = [{"resolution": "480p", "usd": "0.05"}, {"resolution": "720p", "usd": "0.1"}]
    price: dict[str, Any] = {"unit": "second", "source": "a list", "read_on": "2026-11-25"}
    limits = {"seconds": [5, 10], "resolutions": ["480p", "720p"]}
    models = [
        {"model": "dear", "provider": name, "vendor_model": "a/dear", "price": price | {"rates": [{"usd": "9"}]}},
        {
            "model": "m",
            "provider": name,
            "vendor_model": format_.model,
            "limits": limits,
            "price": price | {"rates": rates},
        },
    ]
    put_in_force(engine, book=PriceBook.model_validate({"models": models}))
    has_webhook = name in ("fal", "replicate", "openrouter")
    hooks = {"hooks_url": HOOK.removesuffix("/hooks/generator"), f"{name}_webhook_secret": SIGNING_SECRET}
    return Settings(
        **{f"{name}_url": vendor.url, f"{name}_token": TOKEN} | (hooks if has_webhook else {}),  # type: ignore[arg-type]  # texts
        generator_hosts=("127.0.0.1",),
        allow_private_addresses=True,
    )


def spent(engine: sa.Engine) -> int:
    """What counts in the budget of all vendors, in that of each, and in the bill."""
    with reading(engine) as session:
        at = now(session)
        counted = spend_counters.so_far(session, at).today_microusd
        billed = usage.days(session, at.date(), at.date(), metrics=[Metric.JOB_MICROUSD])
        assert sum(used.quantity for used in billed) == counted
        of_vendors = job_totals.of_kind(session, "provider", [f"{at:%Y-%m-%d}"], 0)
        assert sum(total.microusd for total in of_vendors) == counted
    return counted


def tried(engine: sa.Engine, settings: Settings, trial: Trial) -> dict[str, str]:
    patience = Patience(poll=0.01, end=10.0, webhook=0.2)
    found = carry_out(engine, settings, trial, author="test", patience=patience)
    return {finding.part.removeprefix(f"{trial.provider}: "): finding.state for finding in found}


@pytest.fixture
def calls_back(engine: sa.Engine, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the vendor call as soon as a job is over, and `reelkeeper api` take the call."""
    look = vendor.look

    def looked(job: Job) -> Job:
        if look(job)["status"] != "running" and type(vendor).call is not Vendor.call:
            name_sent(engine, parse_qs(vendor.call(job).query)["key"][0], lambda _: job["id"])
        return job

    monkeypatch.setattr(vendor, "look", looked)


@pytest.mark.usefixtures("calls_back")
def test_each_vendor_shows_what_it_can_for_no_more_than_was_agreed(
    engine: sa.Engine, name: str, vendor: Vendor, settings: Settings
) -> None:
    vendor.looks = 3
    if isinstance(vendor, FalDouble):
        vendor.second_nanousd = 50_000_000
    if isinstance(vendor, ReplicateDouble):
        vendor.predict_seconds = 0  # billed by its output
    trial = plan(engine, settings, name, DOLLAR)
    assert (trial.clip.cost_microusd, trial.clip.model, trial.cancels) == (LISTED, "m", name != "openrouter")
    shown = tried(engine, settings, trial)
    assert " ".join(shown.pop(part) for part in PARTS) == SHOWN[name]
    assert shown == {"submit": "ok", "end": "ok", "fetch": "ok"}
    assert len(vendor.submitted) == 1 + trial.cancels
    assert spent(engine) <= DOLLAR
    with reading(engine) as session:
        (end,) = audit.events(session, event="vendor_trial_end")
    assert end.event.detail.items() >= {"provider": name, **shown}.items()
    assert plan(engine, settings, name, DOLLAR).sent is None


@FAL
@pytest.mark.parametrize(("second_nanousd", "agreed", "counts"), [(50, 499_999, LISTED), (100, 600_000, 500_000)])
def test_a_second_clip_is_sent_only_where_both_cost_what_was_agreed_to(
    engine: sa.Engine, vendor: FalDouble, settings: Settings, second_nanousd: int, agreed: int, counts: int
) -> None:
    vendor.second_nanousd = second_nanousd * 10**6
    trial = plan(engine, settings, "fal", agreed)
    assert trial.cancels == (agreed == 600_000)
    assert tried(engine, settings, trial)["cancel"] == "warn"
    assert (len(vendor.submitted), spent(engine)) == (1, counts)


@FAL
def test_a_clip_that_costs_more_than_was_agreed_or_has_no_price_is_not_sent(
    engine: sa.Engine, vendor: Vendor, settings: Settings
) -> None:
    with pytest.raises(Refused, match=r"\$0\.25"):
        plan(engine, settings, "fal", LISTED - 1)
    with pytest.raises(Misconfigured):
        plan(engine, settings, "runway", DOLLAR)
    put_in_force(engine, book=PriceBook())
    with pytest.raises(Refused, match="catalogue"):
        plan(engine, settings, "fal", DOLLAR)
    assert (vendor.connections, spent(engine)) == (0, 0)


@FAL
@pytest.mark.parametrize("fault", [LOST, FAULT])
def test_a_lost_answer_is_looked_up_counted_and_never_sent_again(
    engine: sa.Engine, vendor: FalDouble, settings: Settings, fault: str
) -> None:
    vendor.queue, vendor.second_nanousd = [fault], 50_000_000
    shown = tried(engine, settings, plan(engine, settings, "fal", LISTED))
    assert (shown["submit"], shown["look-up"], shown["fetch"]) == ("fail", "ok", "ok")
    assert (len(vendor.submitted), spent(engine)) == (1, LISTED)


@pytest.fixture
def killed() -> Iterator[list[str]]:
    """Die at these points from now on."""
    points = list[str]()

    def die(name: str) -> None:
        if name in points:
            raise KeyboardInterrupt

    failpoints.observe(die)
    yield points
    failpoints.observe(None)


@FAL
@pytest.mark.parametrize(("point", "sent"), [("vendor_trial.note.after_commit", 0), ("vendor_trial.submit.after", 1)])
def test_a_trial_that_is_killed_is_followed_and_its_clip_not_bought_again(
    engine: sa.Engine, vendor: FalDouble, settings: Settings, killed: list[str], point: str, sent: int
) -> None:
    killed.append(point)
    vendor.second_nanousd = 50_000_000
    with pytest.raises(KeyboardInterrupt):
        tried(engine, settings, plan(engine, settings, "fal", DOLLAR))
    killed.clear()
    for _ in range(2 - sent):  # one that is not found is asked for again
        assert (len(vendor.submitted), spent(engine)) == (sent, LISTED)
        shown = tried(engine, settings, plan(engine, settings, "fal", DOLLAR))
        assert (shown["end"], shown.get("fetch")) == (("ok", "ok") if sent else ("fail", None))
    assert (len(vendor.submitted), spent(engine)) == (sent, LISTED)


@FAL
def test_a_refused_clip_costs_nothing_and_one_that_runs_on_is_cancelled_and_counts(
    engine: sa.Engine, vendor: Vendor, settings: Settings
) -> None:
    trial = plan(engine, settings, "fal", LISTED)
    vendor.queue = [vendor.refusal(422, "no such resolution")]
    assert tried(engine, settings, trial) == {"submit": "fail"}
    assert spent(engine) == 0
    vendor.looks = 10**6
    found = carry_out(engine, settings, trial, author="test", patience=Patience(0.01, 0.1, 0.1))
    assert [finding.state for finding in found] == ["ok", "ok", "fail"]
    assert (vendor.cancelled, spent(engine)) == (["p1"], LISTED)
    assert tried(engine, settings, plan(engine, settings, "fal", LISTED))["end"] == "fail"
    assert len(vendor.submitted) == 1


@FAL
def test_a_freeze_stops_a_trial(engine: sa.Engine, vendor: Vendor, settings: Settings) -> None:
    trial = plan(engine, settings, "fal", DOLLAR)
    freeze(engine, by="test", reason="an alarm")
    with pytest.raises(Frozen):
        tried(engine, settings, trial)
    assert vendor.connections == 0
