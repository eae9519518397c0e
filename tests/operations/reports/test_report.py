"""A month's report: all figures from the store, unknown ones marked, and external text inert."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.charts import Picture
from reelkeeper.model import SearchTotals
from reelkeeper.model.alerts import AlertState, Finding, Severity
from reelkeeper.model.money import TOO_SHORT, CostForecast
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.reports import figures, tables, text
from reelkeeper.operations.reports.page import page
from reelkeeper.operations.reports.report import MonthReport, gather
from reelkeeper.rules.core.wording import TRY_ANOTHER, usd
from reelkeeper.rules.lifecycle.savings import RULE as LEVER
from reelkeeper.rules.lifecycle.savings import SmallerBy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.spend.limits import RULE as LIMIT
from reelkeeper.store.billing import charges, job_totals
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.lifecycle import crf_searches
from reelkeeper.store.tables import alerts, blobs, forecasts, users, videos
from reelkeeper.store.tables import crf_searches as searches_table
from tests.operations import months
from tests.operations.months import GB, MONTH, NOW
from tests.rules.lifecycle.test_first_crf import SEARCH

_AMOUNTS = [name for name in CostForecast._fields if name.endswith("microusd")]


@pytest.fixture
def report(engine: sa.Engine) -> MonthReport:
    """The month of `months`, as of its 24th."""
    months.fill(engine)
    return gather(engine, MONTH, NOW)


@pytest.fixture(scope="module")
def written(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of that month."""
    place = tmp_path_factory.mktemp("page") / "store.sqlite3"
    shutil.copyfile(migrated_file, place)
    engine = open_engine(f"sqlite:///{place}")
    months.fill(engine)
    found = page(gather(engine, MONTH, NOW))
    engine.dispose()
    return found


def test_its_sums_are_those_of_the_charges(engine: sa.Engine, report: MonthReport) -> None:
    with reading(engine) as session:
        billed = sum(charge.billed_nanousd for charge in charges.between(session, MONTH, NOW.date()))
    assert report.billed_nanousd == billed
    assert sum(sku_line.billed_nanousd for sku_line in report.lines) == billed
    assert sum(total.billed_nanousd for total in report.payers) + report.other_payers.billed_nanousd == billed
    assert report.months[MONTH] == billed
    assert list(report.months) == [date(2026, number, 1) for number in range(6, 12)]
    assert tables.bill(report).total[-1] == tables.payers(report).total[-1] == usd(billed)


def test_a_month_in_which_counting_began_is_not_compared(engine: sa.Engine, report: MonthReport) -> None:
    with transaction(engine, "test") as session:
        charges.replace(session, [date(2026, 5, 20)], [months._charge(date(2026, 5, 20), 9)])
    assert gather(engine, MONTH, NOW).months == report.months


def test_a_past_day_without_charges_is_unknown_but_today_is_not(report: MonthReport) -> None:
    assert report.unknown_days == [months.UNKNOWN_DAY]
    assert text.spend(report) == snapshot(
        "23 days cost $186.32; the dearest was 19 November with $19.82. 1 day went over the daily budget of $10.00. Nobody knows what 13 November cost."
    )


def test_stored_bytes_are_those_of_live_videos_by_age_and_tier(report: MonthReport) -> None:
    assert report.stored_bytes == 218 * GB
    assert sorted({stock.age for stock in report.stock if stock.tier == "pro"}) == snapshot(
        ["31 to 90 days", "8 to 30 days", "91 to 365 days", "age unknown", "over a year", "up to 7 days"]
    )
    assert {stock.tier for stock in report.stock} == {"free", "premium", "pro", "unknown"}


def test_replaced_bytes_count_by_their_difference(report: MonthReport) -> None:
    freed = {(freed_bytes.day, freed_bytes.rule): freed_bytes.size_bytes for freed_bytes in report.freed}
    yesterday, before = (NOW - timedelta(days=days) for days in (1, 5))
    assert freed[yesterday.date(), "grace_over"] == 12 * GB
    assert freed[before.date(), "replaced"] == (15 - 5) * GB


def test_the_last_forecast_before_the_moment_counts(engine: sa.Engine, report: MonthReport) -> None:
    later = months._forecast(0) | {"run_id": "run-2", "as_of": NOW + timedelta(days=1), "mean_microusd": 1}
    with transaction(engine, "test") as session:
        session.execute(sa.insert(forecasts).values(later))
    assert report.this_month is not None
    assert gather(engine, MONTH, NOW).this_month == report.this_month
    assert gather(engine, MONTH, NOW + timedelta(days=2)).expected[0].mean_microusd == 1


def test_its_charts_are_in_dollars(report: MonthReport) -> None:
    def drawn(picture: Picture | None, column: str = "usd") -> list[float]:
        assert picture is not None
        return [row[column] for rows in picture.to_dict()["datasets"].values() for row in rows if column in row]

    so_far = round(report.billed_nanousd / 10**9, 2)
    assert so_far in {round(usd, 2) for usd in drawn(figures.month(report))}
    assert max(drawn(figures.month(report))) == 204  # expected
    assert {round(usd) for usd in drawn(figures.months(report))} == {105, 120, 135, 150, 165, 200, 204, 221, 238}
    assert max(drawn(figures.months(report), "upper")) == 238 + 2 * 24


def test_a_month_that_is_over_has_no_forecast_and_no_later_alerts(engine: sa.Engine, report: MonthReport) -> None:
    october = gather(engine, date(2026, 10, 1), NOW)
    assert october.is_over
    assert (october.this_month, october.alerts) == (None, [])
    assert text.month(october) == snapshot("The month cost $165.00. The budget is $200.00.")
    assert len(october.unknown_days) == 30
    assert not report.is_over


@pytest.mark.usefixtures("report")
def test_a_month_that_is_over_has_its_bill_until_the_next_forecast_too(engine: sa.Engine) -> None:
    november = gather(engine, MONTH, datetime(2026, 12, 1, 3, tzinfo=UTC))
    assert november.is_over
    bill = next(row for row in tables.months(november).rows if row[0] == "November 2026")
    assert bill[1:] == [usd(november.billed_nanousd), "", ""]
    assert not any(row[2] for row in tables.makers(november).rows)


@pytest.mark.usefixtures("report")
def test_a_month_has_its_alerts_however_many_came_after_it(engine: sa.Engine) -> None:
    def resolved(number: int, at: datetime) -> dict[str, object]:
        ended = {"state": AlertState.RESOLVED, "last_at": at, "resolved_at": at, "figures": []}
        what = {"rule": "slow_jobs", "scope": "total", "period": "", "level": f"{number}", "severity": "warning"}
        said = {"title": f"{number}", "text": "", "suggestion": "", "run_id": "run", "is_told": False}
        return {"id": f"later{number}", "first_at": at, **what, **said, **ended}

    october = datetime(2026, 10, 9, tzinfo=UTC)
    with transaction(engine, "test") as session:
        later = [resolved(number, NOW - timedelta(minutes=number)) for number in range(60)]
        session.execute(sa.insert(alerts), [resolved(99, october), *later])
    assert [alert.title for alert in gather(engine, date(2026, 10, 1), NOW).alerts] == ["99"]
    assert sum(alert.state == AlertState.RESOLVED for alert in gather(engine, MONTH, NOW).alerts) == 50


def test_a_page_has_every_firing_alert_and_lever_beside_those_that_are_over(engine: sa.Engine) -> None:
    limits = [
        Finding(LIMIT, f"user:{user}", Severity.WARNING, "", "", period="2999-11", level="80") for user in range(60)
    ]
    lever = Finding(LEVER, "lever", Severity.NOTICE, "", "")
    observe(engine, [lever], rules=(), run_id="test")
    observe(engine, limits, rules=(), run_id="test")
    over = [
        Finding("budget", f"service:{number}", Severity.NOTICE, "", "", period="2999-11", level="80")
        for number in range(60)
    ]
    observe(engine, over, rules=(), run_id="test")
    observe(engine, [], rules=["budget"], run_id="test")
    at = datetime.now(UTC)
    found = gather(engine, at.date().replace(day=1), at + timedelta(minutes=1)).alerts
    assert Counter(alert.rule for alert in found) == {LIMIT: 60, LEVER: 1, "budget": 50}


def test_less_than_a_week_of_usage_has_an_expectation_and_no_range(report: MonthReport) -> None:
    early = replace(report, expected=[forecast._replace(method=TOO_SHORT) for forecast in report.expected])
    assert text.month(early) == snapshot(
        "So far the month has cost $186.32. By its end about $204.00 is expected. Said on 23 November; less than a week of usage is known, too little for a range. The budget is $200.00."
    )


def test_days_before_the_first_charge_of_a_new_installation_are_not_missing(report: MonthReport) -> None:
    since = date(2026, 11, 12)
    new = replace(report, months={MONTH: 1}, spent=[spending for spending in report.spent if spending.day >= since])
    assert new.unknown_days == [months.UNKNOWN_DAY]
    assert replace(new, spent=[]).unknown_days == []


def test_the_page_says_every_figure_and_loads_nothing(report: MonthReport, written: str) -> None:
    for figure in text.tiles(report):
        assert figure.value in written
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", written) == snapshot(
        [
            "Needs attention",
            "Day by day",
            "The bill",
            "Where the month is going",
            "Month by month",
            "What is stored",
            "What was saved",
            "What would save more",
            "Over by now",
        ]
    )
    for said in (": 198 %", "$0.47", TRY_ANOTHER):
        assert said in written
    assert not re.search(r"https?:", written)
    assert "<script" not in written


def test_text_from_outside_stays_text(written: str) -> None:
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.extend(name for name, _ in attrs if name.startswith("on"))
            seen.extend(tag for _ in [0] if tag in {"script", "iframe", "object"})

    Reader().feed(written)
    assert not seen
    assert months.HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in written


def test_every_picture_has_its_words_and_its_table(written: str) -> None:
    alts = re.findall(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="([^"]{20,})"', written)
    assert len(alts) == written.count("<picture>") == 5
    assert written.count("<details>") == 6


def test_bytes_freed_today_save_from_tomorrow(sqlite_engine: sa.Engine) -> None:
    months.fill(sqlite_engine)
    first = gather(sqlite_engine, date(2026, 9, 1), datetime(2026, 9, 8, 23, tzinfo=UTC))
    assert (len(first.freed), first.saved) == (1, [])
    assert text.savings(first) == snapshot("Purges have freed 18.0 GB, which saves from the next day on.")


def test_an_empty_store_gives_a_page_that_says_so(sqlite_engine: sa.Engine) -> None:
    written = page(gather(sqlite_engine, MONTH, NOW))
    assert re.findall(r"<p[^>]*>(.*?)</p>", written) == snapshot(
        [
            "Reelkeeper",
            'What it cost, what it will cost, what is stored and what was saved. As of <time datetime="2026-11-24T18:00:00+00:00">24 November 2026, 18:00 UTC</time>.',
            "No charges are recorded for this month.",
            "No charges are recorded for this month. <code>reelkeeper run monitor_costs --apply</code> records them.",
            "Nothing is charged, so nobody knows what the month has cost. The budget is $200.00.",
            "No live video is stored.",
            "Nothing is freed yet.",
            "What another policy would bring, by the month, and which views it would lose: <code>reelkeeper simulate lifecycle --policy FILE</code>",
            "Days are UTC. A day without charges is unknown, which is not zero. A GB is 10<sup>9</sup> bytes. This page holds everything that it shows: it loads nothing and runs no script.",
        ]
    )
    assert "<strong>unknown</strong>" in written  # which is not zero
    assert written.count("<picture>") == 4


def test_without_budgets_nothing_is_compared(sqlite_engine: sa.Engine) -> None:
    months.fill(sqlite_engine)
    report = gather(sqlite_engine, MONTH, NOW, BudgetPolicy(daily_usd=None, monthly_usd=None))
    assert "budget" not in text.spend(report) + text.month(report)
    assert text.tiles(report)[0].note == snapshot("no monthly budget is set")


def test_one_month_alone_is_no_picture_of_months(sqlite_engine: sa.Engine) -> None:
    with transaction(sqlite_engine, "test") as session:
        charges.replace(session, [NOW.date()], [months._charge(NOW.date(), 1)])
    assert figures.months(gather(sqlite_engine, MONTH, NOW)) is None
    assert gather(sqlite_engine, MONTH, datetime(2026, 12, 9, tzinfo=UTC)).is_over


def test_job_costs_by_provider_and_model_are_shown_with_their_months_forecast(engine: sa.Engine) -> None:
    months.fill(engine)
    assert tables.makers(gather(engine, MONTH, NOW)).rows == []
    with transaction(engine, "test") as session:
        for scope, dollars in (("model:veo", 9), ("provider:fal", 7), ("provider:runway", 12), ("tier:pro", 19)):
            job_totals.add(session, [scope], {"2026-11": dollars * 10**6, "2026-10": 10**6, "2026-11-20": 10**6})
        amounts = dict.fromkeys(_AMOUNTS, 11_500_000)
        said = CostForecast(month=MONTH, service="provider:fal", as_of=NOW, method="median", **amounts)
        session.execute(sa.insert(forecasts).values(run_id="z", **said._asdict()))
    report = gather(engine, MONTH, NOW)
    assert tables.makers(report).rows == [
        ["provider runway", "$12.00", ""],
        ["provider fal", "$7.00", "$11.50"],
        ["model veo", "$9.00", ""],
    ]
    assert tables.makers(report).title in page(report)


def test_the_cost_and_savings_of_compression_are_shown_by_model(engine: sa.Engine) -> None:
    months.fill(engine)
    with transaction(engine, "test") as session:
        for model, cpu_seconds in (("fox", 3_600.0), (None, 36.0)):
            search = replace(SEARCH, cpu_seconds=cpu_seconds, gain_microusd=50_000, cost_microusd=20_000)
            crf_searches.add(session, search, video_id="v", run_id="r", model=model)
    found = gather(engine, MONTH, NOW)
    fox, unknown = tables.smaller(found).rows
    assert str(fox[0]).startswith("fox\nto ")
    assert list(fox[1:]) == ["1 of 1", "30%", "700.0 kB", "1.00 h", "$0.02", "$0.00", "-$0.02", "$0.03"]
    assert str(unknown[0]).startswith("model unknown\n")


@pytest.mark.parametrize(("is_ours", "days"), [(True, 3), (False, 0)])
def test_a_compression_saves_once_the_grace_of_its_original_is_over_also_at_the_services_keys(
    engine: sa.Engine, is_ours: bool, days: int
) -> None:
    at = NOW - timedelta(days=10)
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        made = {"id": "v", "user_id": "ann", "state": "live", "created_at": at - timedelta(days=9)}
        session.execute(sa.insert(videos).values(made))
        kept = {"video_id": "v", "size_bytes": 60 * GB, "stored_at": at, "is_ours": True}
        original = kept | {"key": "v.mp4", "state": "retired", "is_ours": is_ours, "generation": 1}
        session.execute(sa.insert(blobs), [original, kept | {"key": "v2", "state": "live", "generation": 2}])
        search = replace(SEARCH, source_bytes=90 * GB, kept_bytes=60 * GB)
        crf_searches.add(session, search, video_id="v", run_id="r", model="fox")
        session.execute(sa.update(searches_table).values(at=at))
    (fox,) = gather(engine, MONTH, NOW).smaller
    assert fox.saved_microusd == days * 15_000  # 30 GB for a day


def test_the_page_has_the_compression_tables_once_there_are_figures(report: MonthReport) -> None:
    sums = SearchTotals(1, 1, 10, 3)
    told = replace(report, smaller=[SmallerBy("fox", "to 720p", sums, 5)], machines=[("encoder-1", sums)])
    for table in (tables.smaller, tables.machines):
        assert table(told).title in page(told)
        assert table(report).title not in page(report)


def test_what_each_machine_made_smaller_this_month_is_shown(engine: sa.Engine) -> None:
    months.fill(engine)
    with transaction(engine, "test") as session:
        for machine, cpu_seconds in (("encoder-2", 36.0), ("encoder-1", 3_600.0), ("encoder-1", 3_600.0), (None, 9.0)):
            search = replace(SEARCH, cpu_seconds=cpu_seconds, cost_microusd=20_000)
            crf_searches.add(session, search, video_id="v", run_id="r", model=None, machine=machine)
        session.execute(sa.update(searches_table).values(at=NOW - timedelta(days=1)))
        earlier = replace(SEARCH, cpu_seconds=7_200.0)
        crf_searches.add(session, earlier, video_id="v", run_id="r", model=None, machine="encoder-3")
        of_3 = searches_table.c.machine == "encoder-3"
        session.execute(sa.update(searches_table).where(of_3).values(at=NOW - timedelta(days=62)))
    assert tables.machines(gather(engine, MONTH, NOW)).rows == [
        ["encoder-1", "2 of 2", "1.4 MB", "2.00 h", "$0.04"],
        ["encoder-2", "1 of 1", "700.0 kB", "0.01 h", "$0.02"],
    ]
