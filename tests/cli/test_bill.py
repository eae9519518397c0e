"""`bill`: a priced usage document, a month's charges, summed and listed, and our account against Cloudflare's."""

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.providers.contract import Submission
from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import Metric, UsageSource, Used
from reelkeeper.operations.billing.metering import charge_month
from reelkeeper.rules.billing.focus import DETAIL
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.settings import Settings
from reelkeeper.store.billing.usage import days, record
from reelkeeper.store.core.engine import open_store, reading, transaction
from reelkeeper.store.tables import charges, vendor_jobs
from tests.adapters.providers.formats import FORMATS
from tests.adapters.providers.notes import ORDER
from tests.cli.conftest import Run
from tests.doubles.fal import FalDouble
from tests.doubles.runway import RunwayDouble
from tests.doubles.vendor import TOKEN
from tests.operations.books import make_user
from tests.operations.queue import enqueue, row
from tests.reading import TIME, as_read

Ask = Callable[..., Any]
DOCUMENT = {
    "standard": {"gb_month": 750, "class_a": 1200000, "class_b": 9000000},
    "infrequent_access": {"gb_month": 0, "class_a": 0, "class_b": 0, "retrieval_gb": 0},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    """Write a usage document, as an object or as text; return its path."""

    def document(what: object) -> Path:
        path = tmp_path / "usage.json"
        path.write_text(what if isinstance(what, str) else json.dumps(what))
        return path

    return document


def test_a_document_is_priced_as_billed_and_exactly(ask: Ask, write: Callable[[object], Path]) -> None:
    found = ask("bill", "--usage", write(DOCUMENT))
    assert (found["billed_usd"], found["exact_usd"]) == ("15.60", "12.00")
    assert found["lines"][:2] == [
        {
            "sku": "r2-storage-standard",
            "quantity": 750,
            "free": 10,
            "billable_units": 740,
            "unit_price_usd": "0.015",
            "billed_usd": "11.10",
            "exact_usd": "11.10",
        },
        {
            "sku": "r2-class-a-standard",
            "quantity": 1_200_000,
            "free": 1_000_000,
            "billable_units": 1,
            "unit_price_usd": "4.50",
            "billed_usd": "4.50",
            "exact_usd": "0.90",
        },
    ]


@pytest.mark.parametrize("text", ["{}", '{"standard": {}}', '{"infrequent_access": {"gb_month": 0.0}}', "\ufeff{}"])
def test_fields_may_be_left_out(ask: Ask, write: Callable[[object], Path], text: str) -> None:
    assert ask("bill", "--usage", write(text))["billed_usd"] == "0.00"


def test_fractions_are_priced_to_their_last_digit(ask: Ask, write: Callable[[object], Path]) -> None:
    found = ask("bill", "--usage", write('{"infrequent_access": {"gb_month": 2.6666666666666665}}'))
    assert (found["billed_usd"], found["exact_usd"]) == ("0.03", "0.026666666666666665")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"standard": {"gb_month": -1}}', "standard.gb_month is -1"),
        ('{"standard": {"gb_month": NaN}}', "standard.gb_month is NaN"),
        ('{"standard": {"class_b": -Infinity}}', "standard.class_b is -Infinity"),
        ('{"standard": {"gb_month": 1e400}}', "to 1000000000"),
        ('{"standard": {"class_a": 1e30}}', "to 100000000000000"),
        ('{"standard": {"class_a": 1e9999999999999999999999}}', "InvalidOperation"),
        ('{"standard": {"class_a": 1.5}}', "standard.class_a is 1.5"),
        ('{"standard": {"gb_month": "750"}}', "standard.gb_month"),
        ('{"standard": {"gigabytes": 1}}', "standard.gigabytes"),
        ('{"standard": {}, "standard": {}}', "twice"),
        ("[]", "dictionary"),
        ("no JSON", "line 1"),
        ("[" * 100_000, "recursion"),
        ('{"standard": {"class_a": ' + "9" * 5_000 + "}}", "4300"),
    ],
    ids=lambda text: text[:40],
)
def test_impossible_usage_ends_with_2_and_the_reason(
    reelkeeper: Run, write: Callable[[object], Path], text: str, said: str
) -> None:
    result = reelkeeper("bill", "--usage", write(text), "--json", exit_code=2)
    assert result.stdout == ""
    assert said in " ".join(result.stderr.replace("│", "").split())


def test_a_missing_file_ends_with_2(reelkeeper: Run, tmp_path: Path) -> None:
    reelkeeper("bill", "--usage", tmp_path / "none.json", exit_code=2)


def test_people_get_a_table_of_what_was_used(reelkeeper: Run, write: Callable[[object], Path]) -> None:
    said = reelkeeper("bill", "--usage", write(DOCUMENT)).stdout
    assert [line.split()[0] for line in said.splitlines()[1:]] == [
        *("r2-storage-standard", "r2-class-a-standard", "r2-class-b-standard", "total")
    ]
    assert "15.60" in said.splitlines()[-1]


@pytest.fixture
def june(configured: Settings) -> None:
    """June 2026: 15 GB on its first 20 days, 6 of them ann's, and two jobs of bob's. Charged on the 20th."""
    days = [date(2026, 6, day) for day in range(1, 21)]
    stored = [Used(day, Metric.STORED_BYTES, 15 * 10**9, storage_class="standard") for day in days]
    anns = [usage._replace(quantity=6 * 10**9, user_id="ann") for usage in stored]
    jobs = Used(days[0], Metric.JOBS, 2, "veo", provider="fal")
    with open_store(configured) as engine:
        with transaction(engine, "test") as session:
            record(session, [*stored, *anns, jobs, jobs._replace(user_id="bob")])
            record(
                session, [usage._replace(source=UsageSource.CLOUDFLARE, quantity=16 * 10**9) for usage in stored[:2]]
            )
        charge_month(engine, PriceBook(), days[0], days[-1])


@pytest.mark.long
@pytest.mark.usefixtures("june")
def test_a_month_adds_up_the_same_by_user_service_provider_and_day(ask: Ask) -> None:
    by = {name: ask("bill", "--month", "2026-06", "--by", name) for name in ("user", "service", "provider", "day")}
    for name in ("ListCost", "BilledCost"):
        assert len({round(sum(float(row[name]) for row in rows), 9) for rows in by.values()}) == 1
    assert [item["x_UserId"] for item in by["user"]] == ["", "ann", "bob"]
    parts = [json.loads(item["x_BilledCostByProvider"]) for item in by["user"]]
    assert parts == [{"Cloudflare": "-0.045", "fal": "0.00"}, {"Cloudflare": "0.06"}, {"fal": "0.03"}]
    assert [(item["ProviderName"], item["BilledCost"]) for item in by["provider"]] == [
        ("Cloudflare", "0.015"),
        ("fal", "0.03"),
    ]
    assert [(item["ServiceName"], item["BilledCost"]) for item in by["service"]] == [
        ("r2-storage", "0.015"),
        ("compute", "0.02"),
        ("api", "0.01"),
    ]
    assert by["day"][0]["ChargePeriodStart"] == "2026-06-01T00:00:00Z"
    assert by["day"][-1]["x_Estimated"] is True


@pytest.mark.long
@pytest.mark.usefixtures("june")
def test_every_charge_is_a_row_under_focus_names_in_json_and_csv(reelkeeper: Run, ask: Ask) -> None:
    listed = ask("bill", "--month", "2026-06")
    assert {tuple(item) for item in listed} == {DETAIL}
    lines = list(csv.DictReader(io.StringIO(reelkeeper("bill", "--month", "2026-06", "--csv").stdout)))
    assert [line["BilledCost"] for line in lines] == [item["BilledCost"] for item in listed]
    assert len(lines) == 20 * 2 + 2 * 2
    added = reelkeeper("bill", "--month", "2026-06", "--csv", "--by", "user").stdout.splitlines()
    assert added[0].startswith("BillingPeriodStart,BillingPeriodEnd,BillingCurrency,x_UserId,x_UserTier,ListCost")
    assert len(added) == 4


@pytest.mark.long
@pytest.mark.usefixtures("june")
def test_the_table_has_sums_and_names_uncounted_days(reelkeeper: Run) -> None:
    said = reelkeeper("bill", "--month", "2026-06").stdout
    assert [line.split()[0] for line in said.splitlines()[1:5]] == ["r2-storage", "compute", "api", "total"]
    assert as_read(said) == snapshot("""\
service $ list $ billed
r2-storage 0.151 0.015 estimated in part
compute 0.02 0.02
api 0.01 0.01
total 0.181 0.045
On 10 of its days the stored bytes were not measured: 2026-06-21, 2026-06-22, 2026-06-23,
  2026-06-24, 2026-06-25 ....\
""")
    assert as_read(reelkeeper("bill", "--month", "2026-06", "--by", "user").stdout) == snapshot("""\
user tier $ Cloudflare $ fal $ list $ billed $ paid
nobody: free allowances, - -0.045 0.00 0.091 -0.045 estimated in part
rounding up to whole units,
and what no user is known to
have used
ann - 0.06 0.06 0.06 0.00 estimated in part
bob - 0.03 0.03 0.03 0.00
total 0.015 0.03 0.181 0.045 0.00
On 10 of its days the stored bytes were not measured: 2026-06-21, 2026-06-22, 2026-06-23,
  2026-06-24, 2026-06-25 ....\
""")
    assert as_read(reelkeeper("bill", "--month", "2026-06", "--by", "day", "--limit", "5").stdout) == snapshot("""\
day $ list $ billed
2026-06-01 0.038 0.03
2026-06-02 0.008 0.00
2026-06-03 0.0075 0.00
2026-06-04 0.0075 0.00
2026-06-05 0.0075 0.00
total 0.181 0.045
These are the first 5 of 20; --limit shows more.
On 10 of its days the stored bytes were not measured: 2026-06-21, 2026-06-22, 2026-06-23,
  2026-06-24, 2026-06-25 ....\
""")


@pytest.mark.usefixtures("june")
def test_our_count_is_compared_with_cloudflares(reelkeeper: Run, ask: Ask) -> None:
    found = ask("bill", "--reconcile", "cloudflare", "--month", "2026-06")
    (storage,) = found["differences"]
    assert (storage["ours"], storage["theirs"], storage["difference"]) == (30 * 10**9, 32 * 10**9, 2 * 10**9)
    assert (storage["list_usd"], found["charged_usd"]) == ("0.001", "0.015")
    assert (len(found["days_of_both"]), len(found["days_of_ours_alone"])) == (2, 18)
    assert found["billed_by_cloudflare_usd"] is None
    said = reelkeeper("bill", "--reconcile", "cloudflare", "--month", "2026-06").stdout
    assert as_read(said) == snapshot("""\
sku unit ours Cloudflare's difference $ list
r2-storage-standard Byte-Days 30,000,000,000 32,000,000,000 2,000,000,000 0.001
2026-06: days known to both 2, only to us 18, only to Cloudflare 0.
Charged for R2: $0.015. Cloudflare's bill is unknown: REELKEEPER_CLOUDFLARE_API_TOKEN is not
  set, so Cloudflare was not asked.\
""")


def test_a_job_that_only_the_provider_knows_is_named_with_its_cost(
    reelkeeper: Run, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FalDouble().serving() as fal:
        for name, value in {"": "fal", "_URL": fal.url, "_TOKEN": TOKEN}.items():
            monkeypatch.setenv(f"REELKEEPER_GENERATOR{name}", value)
        monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")
        FORMATS["fal"].connect(fal).submit(Submission("somebody's", ORDER._replace(model="fal-ai/veo3.1")))
        fal.jobs["p1"]["status"] = "succeeded"
        found = ask("bill", "--reconcile", "fal")
        assert [entry["at_provider"] for entry in found["only_theirs"]] == ["fal-ai/veo3.1/requests/p1"]
        assert (found["ours_usd"], found["theirs_usd"], found["difference_usd"]) == ("0.00", "0.50", "0.50")
        assert (found["jobs_of_both"], found["only_ours"], found["differences"]) == (0, [], [])
        said = reelkeeper("bill", "--reconcile", "fal").stdout
    assert as_read(said, at=TIME, month=re.compile(r"\d{4}-\d\d(?= at)")) == snapshot("""\
<month> at fal: jobs known to both 0, made for 0 requests of ours; only to us 0, only to fal 1.
Only known to fal: fal-ai/veo3.1/requests/p1, fal-ai/veo3.1, <at>, $0.50.
Ours: $0.00. fal bills $0.50: a difference of $0.50.\
""")


def test_a_job_that_never_arrived_ends_to_count_as_spent_once_a_person_says_so(
    reelkeeper: Run, ask: Ask, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = {"state": JobState.DEAD, "quoted_cost_microusd": 600_000}
    with RunwayDouble().serving() as runway, open_store(configured) as engine:
        for name, value in {"": "runway", "_URL": runway.url, "_TOKEN": TOKEN}.items():
            monkeypatch.setenv(f"REELKEEPER_GENERATOR{name}", value)
        monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")
        FORMATS["runway"].connect(runway).submit(Submission("made-1", ORDER._replace(model="gen4.5")))
        at = datetime.now(UTC) - timedelta(days=1, minutes=1)
        runway.look(runway.jobs["p1"])["at"] = at
        month, sent = f"{at:%Y-%m}", {"provider": "runway", "sent_at": at, "ended_at": at, "counted_microusd": 600_000}
        make_user(engine, "ann")
        enqueue(engine, {**row("made"), **dead}, {**row("lost"), **dead})
        with transaction(engine, "test") as session:
            for job, vendor_id in (("made", "p1"), ("lost", None)):
                new = {"key": f"{job}-1", "job_id": job, "vendor_id": vendor_id}
                session.execute(sa.insert(vendor_jobs).values(**new, **sent))
        asked = "bill", "--reconcile", "runway", "--month", month
        found = ask(*asked)
        assert (found["never_made"], found["ended_usd"]) == ([{"job": "lost", "ours_usd": "0.60"}], "0.00")
        assert "--end-doubts" in reelkeeper(*asked).stdout
        reelkeeper(*asked, "--end-doubts", exit_code=1)  # nobody said yes
        assert ask(*asked, "--end-doubts", "--yes")["ended_usd"] == "0.60"
        found = ask(*asked)
        assert (found["never_made"], found["ours_usd"], found["theirs_usd"]) == ([], "0.60", "0.60")


def test_a_month_without_charges_says_what_makes_them(reelkeeper: Run, ask: Ask) -> None:
    assert "monitor_costs" in reelkeeper("bill").stdout
    assert ask("bill", "--by", "user") == []
    assert reelkeeper("bill", "--csv").stdout.splitlines() == [",".join(DETAIL)]


@pytest.mark.parametrize(
    "words",
    [
        ["--month", "June"],
        ["--month", "2026-13"],
        ["--by", "planet"],
        ["--usage", "-", "--by", "user"],
        ["--reconcile", "cloudflare", "--by", "user"],
        ["--reconcile", "nobody"],
        ["--reconcile", "fal"],
        ["--end-doubts"],
        ["--end-doubts", "--reconcile", "cloudflare"],
    ],
    ids=" ".join,
)
def test_invalid_arguments_end_with_2(reelkeeper: Run, words: list[str]) -> None:
    reelkeeper("bill", *words, exit_code=2)


def test_requests_of_a_command_to_the_bucket_are_counted(one_video: str, configured: Settings) -> None:
    assert one_video
    with open_store(configured) as engine, reading(engine) as session:
        sent = {
            usage.resource: usage.quantity for usage in days(session, date.min, date.max, metrics=[Metric.OPERATIONS])
        }
    assert sent["PutObject"] == 2  # the bucket's identity, and the video
    assert sent["GetObject"] >= 1


def test_one_form_is_asked_for_at_a_time(reelkeeper: Run) -> None:
    assert "--json" in reelkeeper("bill", "--csv", "--json", exit_code=2).output


def test_an_id_is_no_formula_in_a_spreadsheet(reelkeeper: Run, ask: Ask, configured: Settings) -> None:
    names = ["=cmd|' /C calc'!A0", "+1 555", "-2+3", "@here", "-7"]
    with open_store(configured) as engine, transaction(engine, "test") as session:
        for name in names:
            values = {"day": date(2026, 6, 1), "sku": "jobs", "service": "compute", "consumed_quantity": 1}
            values |= {"consumed_unit": "jobs", "list_nanousd": 5, "billed_nanousd": 0, "price_book": "b"}
            session.execute(sa.insert(charges).values(values | {"user_id": name}))
    assert {row["x_UserId"] for row in ask("bill", "--month", "2026-06")} == {*names}
    lines = list(csv.DictReader(io.StringIO(reelkeeper("bill", "--month", "2026-06", "--csv").stdout)))
    assert {line["x_UserId"] for line in lines} == {f"'{name}" for name in names[:4]} | {"-7"}
