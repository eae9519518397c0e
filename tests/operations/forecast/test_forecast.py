"""From usage in the store to forecast costs: on both databases, with gaps, two counters and retention."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import UsageUnknown
from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used
from reelkeeper.operations.forecast.forecast import (
    cheaper_ways,
    gather,
    predict_costs,
    predict_monthly_cost,
    predict_resource_needs,
    record,
)
from reelkeeper.rules.billing.cheaper import Cheaper
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.forecast.costs import TOTAL, Cost
from reelkeeper.rules.forecast.storage import Stock
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.billing import job_totals
from reelkeeper.store.billing.usage import record as record_usage
from reelkeeper.store.core import deployment
from reelkeeper.store.core.deployment import Standing
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.forecast.forecasts import latest
from reelkeeper.store.tables import blobs, holds, jobs, users, videos
from tests.jobs import made
from tests.tiers import FOR_EVER

NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)
TODAY = NOW.date()
GB = 10**9
DAYS = 60


def is_service(cost: Cost) -> bool:
    return cost.service != TOTAL and ":" not in cost.service


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def a_day(day: date) -> list[Used]:
    return [
        Used(day, Metric.STORED_BYTES, 400 * GB, storage_class=StorageClass.STANDARD),
        Used(day, Metric.OPERATIONS, 70_000, "PutObject"),
        Used(day, Metric.OPERATIONS, 10_000, "ListObjects"),
        Used(day, Metric.OPERATIONS, 5_000, "DeleteObject"),
        Used(day, Metric.JOBS, 200, "kling"),
        Used(day, Metric.JOBS, 100, "sora"),
        Used(day, Metric.GENERATION_SECONDS, 36_000),
        Used(day, Metric.USERS, 40),
        Used(day, Metric.UPLOADED_BYTES, 2 * GB),
    ]


@pytest.fixture
def store(engine: sa.Engine) -> sa.Engine:
    """Sixty days of usage that stays as it is, and a few videos that will leave."""
    with transaction(engine, "test") as session:
        record_usage(session, [used for days in range(1, DAYS + 1) for used in a_day(ago(days))])
        session.execute(sa.insert(users), [{"id": "ann", "tier": "free"}, {"id": "bob", "tier": None}])
        made = NOW - timedelta(days=20)
        rows = [
            {"id": f"v{n}", "user_id": user, "state": "live", "created_at": made}
            for n, user in enumerate(["ann", "ann", "bob"])
        ]
        session.execute(sa.insert(videos), rows)
        session.execute(
            sa.insert(blobs),
            [
                {
                    "id": n + 1,
                    "video_id": f"v{n}",
                    "state": "live",
                    "size_bytes": (n + 1) * GB,
                    "key": f"k{n}",
                    "stored_at": made,
                }
                for n in range(3)
            ],
        )
        session.execute(
            sa.update(videos).values(
                blob_id=sa.select(blobs.c.id).where(blobs.c.video_id == videos.c.id).scalar_subquery()
            )
        )
        session.execute(
            sa.insert(blobs).values(
                id=9, video_id=None, state="retired", size_bytes=7 * GB, key="k9", purge_after=NOW + timedelta(days=3)
            )
        )
    return engine


def test_this_months_forecast_is_its_usage_plus_the_forecast_of_the_rest(store: sa.Engine) -> None:
    costs = {cost.service: cost for cost in predict_costs(store, NOW, policies=DEFAULTS, months=1)}
    assert costs["compute"].mean_usd == pytest.approx(300 * 30 * 0.01, rel=0.02)
    assert costs["api"].mean_usd == pytest.approx(300 * 30 * 0.005, rel=0.02)
    assert costs["r2-class-a"].mean_usd == pytest.approx(2 * 4.5)  # 2.4 million, of which one is free
    assert costs["r2-storage"].mean_usd == pytest.approx((400 - 10) * 0.015, rel=0.03)
    assert costs[TOTAL].mean_usd == pytest.approx(sum(cost.mean_usd for cost in costs.values() if is_service(cost)))


def test_bytes_in_infrequent_access_are_forecast_at_their_own_price(store: sa.Engine) -> None:
    cold = Used(TODAY, Metric.STORED_BYTES, 100 * GB, storage_class=StorageClass.INFREQUENT_ACCESS)
    with transaction(store, "test") as session:
        record_usage(session, [cold._replace(day=ago(days)) for days in range(1, DAYS + 1)])
    costs = {cost.service: cost.mean_usd for cost in predict_costs(store, NOW, policies=DEFAULTS, months=1)}
    assert {name: usd for name, usd in costs.items() if name.startswith("r2-s")} == {
        "r2-storage": pytest.approx((400 - 10) * 0.015 + 100 * 0.01, rel=0.03)
    }


def test_two_years_of_usage_are_known_to_a_forecast(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        record_usage(session, [Used(ago(days), Metric.USERS, 7) for days in (730, 731)])
    assert gather(store, NOW, DEFAULTS).first == ago(730)


def test_expiring_bytes_leave_the_forecast_and_held_or_unknown_ones_stay(store: sa.Engine) -> None:
    leaves = ago(20) + timedelta(days=30 + 1 + 7)
    assert gather(store, NOW, DEFAULTS).stored.stock.expiries == {leaves: 3 * GB, date(2026, 11, 24): 7 * GB}
    with transaction(store, "test") as session:
        session.execute(
            sa.insert(holds).values(id="h", scope="video", subject="v0", reason="r", author="eve", created_at=NOW)
        )
    assert gather(store, NOW, DEFAULTS).stored.stock.expiries[leaves] == 2 * GB
    for_ever = DEFAULTS.overridden(tiers=FOR_EVER)
    assert leaves not in gather(store, NOW, for_ever).stored.stock.expiries


def test_bytes_at_the_services_keys_stay_in_the_forecast_for_their_longer_grace(store: sa.Engine) -> None:
    drafts = {"name": "drafts", "tags": ["draft"], "retention_days": 25}
    segments = DEFAULTS.overridden(lifecycle=LifecyclePolicy.model_validate({"segments": [drafts]}))
    with transaction(store, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.key == "k1").values(is_ours=False))
    ours, theirs = (ago(20) + timedelta(days=30 + 1 + days) for days in DEFAULTS.lifecycle.grace)
    for policies in (DEFAULTS, segments):
        stock = gather(store, NOW, policies).stored.stock
        assert (stock.expiries[ours], stock.expiries[theirs]) == (1 * GB, 2 * GB)
        assert stock.kept == {38: pytest.approx(1 / 6), 45: pytest.approx(2 / 6)}


def test_nothing_leaves_the_forecast_of_a_trial_which_deletes_nothing(store: sa.Engine) -> None:
    live = gather(store, NOW, DEFAULTS).stored.stock
    with transaction(store, "test") as session:
        deployment.set_standing(session, Standing(place="http://s3/bucket/videos/"))
    stock = gather(store, NOW, DEFAULTS).stored.stock
    assert sum(live.expiries.values()) == 10 * GB
    assert sum(live.kept.values()) == pytest.approx(0.5)
    assert stock == Stock(live.alive_bytes)


def test_bytes_of_a_segment_leave_by_its_retention(store: sa.Engine) -> None:
    drafts = {"name": "drafts", "tags": ["draft"], "retention_days": 25}
    policies = DEFAULTS.overridden(lifecycle=LifecyclePolicy.model_validate({"segments": [drafts]}))
    usual, sooner = (ago(20) + timedelta(days=days + 1 + 7) for days in (30, 25))
    before = gather(store, NOW, DEFAULTS).stored.stock
    assert gather(store, NOW, policies).stored.stock == before
    with transaction(store, "test") as session:
        session.execute(sa.update(videos).where(videos.c.id != "v1").values(tag="draft"))
    stock = gather(store, NOW, policies).stored.stock
    assert (stock.expiries[sooner], stock.expiries[usual]) == (1 * GB, 2 * GB)
    assert stock.kept == {25 + 1 + 7: pytest.approx(1 / 6), 30 + 1 + 7: pytest.approx(2 / 6)}


def test_cloudflares_count_replaces_ours_and_a_day_without_reads_had_none(store: sa.Engine) -> None:
    theirs = {"source": UsageSource.CLOUDFLARE, "storage_class": StorageClass.STANDARD}
    with transaction(store, "test") as session:
        record_usage(session, [Used(ago(1), Metric.OPERATIONS, 5, "GetObject", **theirs)])  # type: ignore[arg-type]  # two fields
    known = {line.name: line.history for line in gather(store, NOW, DEFAULTS).lines}
    assert known["class A standard"].loc[str(ago(1))] == 0
    assert known["class A standard"].loc[str(ago(2))] == 80_000
    assert known["class B standard"].loc[str(ago(1))] == 5
    assert known["class B standard"].loc[str(ago(2))] == 0


def test_a_forecast_is_stored_once_and_read_back(store: sa.Engine) -> None:
    costs = predict_costs(store, NOW, policies=DEFAULTS, months=2)
    said = record(store, costs, run_id="run", as_of=NOW)
    record(store, costs, run_id="run", as_of=NOW)
    with reading(store) as session:
        kept = latest(session, NOW)
    assert sorted(kept) == sorted(said)
    assert {forecast.month for forecast in kept} == {date(2026, 11, 1), date(2026, 12, 1)}


def test_the_two_questions_of_the_first_sketch_are_answered(store: sa.Engine) -> None:
    cost = predict_monthly_cost(store, NOW)
    assert cost.month == date(2026, 12, 1)
    assert cost.total_usd == pytest.approx(cost.storage_usd + cost.compute_usd + cost.api_usd + 9.0, rel=0.03)
    assert cost.lower80_usd < cost.total_usd < cost.upper80_usd
    needs = predict_resource_needs(store, NOW)
    assert (needs.jobs or 0) == pytest.approx(300 * 31, rel=0.02)
    assert (needs.generation_seconds or 0) == pytest.approx(36_000 * 31, rel=0.02)
    assert needs.users == 40
    assert (needs.stored_bytes or 0) > 400 * GB
    grown = predict_monthly_cost(store, NOW, growth_percent_per_month=50)
    assert grown.compute_usd > 1.3 * cost.compute_usd


def test_the_forecast_of_an_empty_store_is_unknown_not_zero(engine: sa.Engine) -> None:
    for ask in (partial(predict_costs, policies=DEFAULTS), predict_monthly_cost, predict_resource_needs):
        with pytest.raises(UsageUnknown) as unknown:
            ask(engine, NOW)
        assert str(unknown.value) == snapshot(
            "no usage is recorded for any day before 2026-11-21. A forecast needs at least one whole day: monitor_costs records usage every hour"
        )


def test_an_uncounted_metric_is_unknown(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        record_usage(session, [Used(ago(1), Metric.STORED_BYTES, GB, storage_class=StorageClass.STANDARD)])
    needs = predict_resource_needs(engine, NOW)
    assert (needs.stored_bytes, needs.jobs, needs.users) == (GB, None, None)


def test_clips_are_forecast_at_what_they_cost_and_no_more_at_a_flat_price(store: sa.Engine) -> None:
    """For thirty days kling's 200 jobs a day have cost $1 each by the clip; sora's 100 are $0.015 each."""
    with transaction(store, "test") as session:
        record_usage(session, [Used(ago(day), Metric.JOB_MICROUSD, 200_000_000, "kling") for day in range(1, 31)])
        record_usage(session, [Used(ago(day), Metric.CLIP_JOBS, 200, "kling") for day in range(1, 31)])
    month = [cost for cost in predict_costs(store, NOW, policies=DEFAULTS, months=2) if cost.month == date(2026, 12, 1)]
    by_service = {cost.service: cost.mean_usd for cost in month}
    assert by_service["api"] == pytest.approx(31 * (200 + 100 * 0.005), rel=0.02)
    assert by_service["compute"] == pytest.approx(31 * 100 * 0.01, rel=0.02)


def test_each_provider_is_forecast_from_what_its_jobs_have_cost_a_day_without_any_as_nothing(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        for days in range(1, DAYS + 1):
            of = ["provider:fal", "model:kling"] if days % 7 else ["provider:runway"]
            job_totals.add(session, of, {f"{ago(days)}": 3_000_000, f"{ago(days):%Y-%m}": 3_000_000})
    services = {cost.service: cost for cost in predict_costs(store, NOW, policies=DEFAULTS, months=2)}
    assert services["provider:fal"].mean_usd == pytest.approx(31 * 6 / 7 * 3, rel=0.1)
    assert services["provider:runway"].mean_usd == pytest.approx(31 / 7 * 3, rel=0.3)
    assert services["model:kling"].mean_usd == pytest.approx(31 * 200 * 0.015, rel=0.05)
    whole = sum(cost.mean_usd for cost in services.values() if is_service(cost))
    assert services[TOTAL].mean_usd == pytest.approx(whole)


@pytest.mark.parametrize(("jobs_made_ago", "a_month"), [(range(7, DAYS, 7), 30 * 100 / 7), (range(41, DAYS), 0)])
def test_a_counted_day_without_a_job_had_none(engine: sa.Engine, jobs_made_ago: range, a_month: float) -> None:
    """A batch of $100 a week was forecast as one of each day, and a model that was given up as one still in use."""
    stored = Used(TODAY, Metric.STORED_BYTES, GB, storage_class=StorageClass.STANDARD)
    kling = [(Metric.JOBS, 100), (Metric.CLIP_JOBS, 100), (Metric.JOB_MICROUSD, 100_000_000)]
    with transaction(engine, "test") as session:
        record_usage(session, [stored._replace(day=ago(days)) for days in range(1, DAYS + 1)])
        record_usage(session, [Used(ago(days), *what, "kling") for days in jobs_made_ago for what in kling])
        for days in jobs_made_ago:
            job_totals.add(session, ["provider:fal"], {f"{ago(days)}": 100_000_000})
    costs = {cost.service: cost.mean_usd for cost in predict_costs(engine, NOW, policies=DEFAULTS, months=1)}
    assert [costs[name] for name in ("api", "model:kling", "provider:fal")] == pytest.approx(
        [a_month] * 3, rel=0.1, abs=1
    )
    assert (predict_resource_needs(engine, NOW).jobs or 0) == pytest.approx(a_month, rel=0.2, abs=1)


def test_days_on_which_nothing_was_counted_stay_unknown(engine: sa.Engine) -> None:
    stored = Used(TODAY, Metric.STORED_BYTES, GB, storage_class=StorageClass.STANDARD)
    counted = [days for days in range(1, DAYS + 1) if not 10 <= days < 20]
    with transaction(engine, "test") as session:
        for days in counted:
            record_usage(session, [stored._replace(day=ago(days)), Used(ago(days), Metric.JOBS, 100, "kling")])
            job_totals.add(session, ["provider:fal"], {f"{ago(days)}": 1_500_000})
    costs = {cost.service: cost.mean_usd for cost in predict_costs(engine, NOW, policies=DEFAULTS, months=1)}
    assert [costs[name] for name in ("model:kling", "provider:fal")] == pytest.approx([30 * 1.5] * 2, rel=0.02)


def test_after_an_import_the_forecast_is_unsure_and_still_made(engine: sa.Engine) -> None:
    """50 TB came on one day, and 10 MB on each other: the bounds of uploads were more than any account has."""
    at = [Used(ago(days), Metric.STORED_BYTES, GB, storage_class=StorageClass.STANDARD) for days in range(1, DAYS)]
    moved = [Used(used.day, Metric.UPLOADED_BYTES, 10_000_000 + used.day.day * 1_000) for used in at]
    with transaction(engine, "test") as session:
        record_usage(session, [*at, *moved, Used(ago(20), Metric.UPLOADED_BYTES, 50_000 * GB)])
    costs = predict_costs(engine, NOW, policies=DEFAULTS, months=3)
    storage = next(cost for cost in costs if (cost.service, cost.month) == ("r2-storage", date(2027, 1, 1)))
    at_most = 10 * 50_000 * 0.015
    assert storage.mean_usd < storage.bounds[95][1] < 2 * at_most


def test_requests_are_priced_at_the_other_providers_of_their_model(store: sa.Engine) -> None:
    def price(usd: str) -> dict[str, object]:
        return {"unit": "second", "rates": [{"usd": usd}], "source": "a list", "read_on": "2026-11-01"}

    second = {"provider": "runway", "price": price("0.06")}
    entry = {"model": "veo", "provider": "fal", "price": price("0.10"), "offers": [second]}
    request = {"prompt": "a cat", "model": "veo", "duration_seconds": 5, "width": 1280, "height": 720}
    rows = [
        made(f"j{days}", NOW - timedelta(days=days), request=asked, model="veo", provider="fal")
        for days in (1, 2, 29, 31)
        for asked in [request | {"prompt": f"cat {days}"}]
    ]
    rows.append(made("old", NOW - timedelta(days=3), request={"prompt": "of an earlier version"}, provider="fal"))
    with transaction(store, "test") as session:
        session.execute(sa.insert(jobs), rows)
    found = cheaper_ways(store, NOW, PriceBook.model_validate({"models": [entry]}))
    assert found == [Cheaper("veo", "runway", 3, Decimal("0.60"))]
