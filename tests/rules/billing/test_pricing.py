"""The cost of a month, as billed and exactly; the cost of one object, and the savings of removing bytes."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model.money import StorageClass
from reelkeeper.rules.billing.pricing import (
    Bill,
    InfrequentAccessUsage,
    StandardUsage,
    Usage,
    bill,
    cost_until,
    gb_months,
    saving_this_month,
    storage_microusd_per_month,
)
from reelkeeper.rules.billing.tariff import GB

OPERATIONS = st.integers(0, 10**14)
GIGABYTES = st.decimals(0, 10**9, places=12)


def priced(standard: dict[str, Any] | None = None, infrequent_access: dict[str, Any] | None = None) -> Bill:
    return bill(Usage.model_validate({"standard": standard or {}, "infrequent_access": infrequent_access or {}}))


@pytest.mark.parametrize(
    ("users", "gigabytes", "dollars"),
    [(100, 15, "0.08"), (500, 75, "0.98"), (1000, 150, "2.10"), (5000, 750, "11.10")],
)
def test_the_table_of_the_first_sketch(users: int, gigabytes: int, dollars: str) -> None:
    """Five videos of 30 MB per user, storage only, to the cent, without R2's rounding up to whole gigabytes."""
    stored = users * 5 * 30 * 10**6
    assert stored == gigabytes * GB
    assert round(priced({"gb_month": gigabytes}).exact_usd, 2) == Decimal(dollars)


@pytest.mark.parametrize(
    ("standard", "infrequent_access", "dollars"),
    [
        ({"gb_month": 1000, "class_a": 1000, "class_b": 1_000_000}, {}, "14.85"),
        ({}, {"gb_month": 1000, "class_a": 1000, "class_b": 1_000_000, "retrieval_gb": 1000}, "29.90"),
        ({"gb_month": 10, "class_a": 100_000, "class_b": 300_000_000}, {}, "104.40"),
    ],
    ids=["standard storage", "infrequent access", "asset hosting"],
)
def test_cloudflares_own_examples(standard: dict[str, Any], infrequent_access: dict[str, Any], dollars: str) -> None:
    """The three tables of the section "R2 billing examples" of Cloudflare's pricing page."""
    assert priced(standard, infrequent_access).billed_usd == Decimal(dollars)


@pytest.mark.parametrize(
    ("field", "quantity", "units"),
    [
        ("class_a", 1_000_001, 2),  # "one million and one operations, you will be billed for two million"
        ("gb_month", Decimal("1.1"), 2),
        ("retrieval_gb", Decimal("1.1"), 2),
        ("class_b", 1, 1),
        ("class_b", 1_000_000, 1),
        ("gb_month", Decimal("1e-12"), 1),
        ("gb_month", 0, 0),
    ],
)
def test_usage_is_rounded_up_to_whole_units(field: str, quantity: Decimal, units: int) -> None:
    """The examples of the section "Billable unit rounding", where nothing is free."""
    lines = priced(infrequent_access={field: quantity}).lines
    assert sum(bill_line.billable_units for bill_line in lines) == units


def test_storage_is_the_mean_of_the_daily_peaks() -> None:
    """Cloudflare's example: 1 GB for 5 days, then 3 GB for 25, is 2.66 GB-months."""
    month = gb_months([GB] * 5 + [3 * GB] * 25)
    assert round(month, 2) == Decimal("2.67")
    assert priced(infrequent_access={"gb_month": month}).lines[3].billable_units == 3
    assert gb_months([GB] * 30) == 1
    assert gb_months([3 * GB] * 10, period_days=30) == 1
    assert gb_months([]) == 0
    with pytest.raises(ValueError) as refused:  # noqa: PT011  its sentence is asserted
        gb_months([GB] * 31, period_days=30)
    assert str(refused.value) == snapshot("31 daily peaks in a period of 30 days")


@given(st.lists(st.integers(0, 10**18), max_size=31), st.integers(31, 400))
def test_gb_months_keep_every_byte(peaks: list[int], days: int) -> None:
    """Whole GB-months are told from a byte more, whatever the size; the bill rounds up on that."""
    exact = Fraction(sum(peaks), days * GB)
    month = gb_months(peaks, days)
    assert abs(Fraction(month) - exact) <= Fraction(1, 10**18)
    assert (month == month.to_integral_value()) == (exact.denominator == 1)
    assert StandardUsage(gb_month=month).gb_month == month


def test_the_issues_own_document() -> None:
    found = priced(
        {"gb_month": 750, "class_a": 1_200_000, "class_b": 9_000_000},
        {"gb_month": 0, "class_a": 0, "class_b": 0, "retrieval_gb": 0},
    )
    assert (found.billed_usd, found.exact_usd) == (Decimal("15.60"), Decimal("12.00"))


def test_no_usage_costs_nothing_and_has_a_line_for_everything() -> None:
    found = bill(Usage())
    assert found.billed_usd == found.exact_usd == Decimal(0)
    assert [bill_line.sku for bill_line in found.lines] == [
        *(f"r2-{what}-standard" for what in ("storage", "class-a", "class-b")),
        *(f"r2-{what}-infrequent-access" for what in ("storage", "class-a", "class-b", "retrieval")),
    ]


@given(GIGABYTES, OPERATIONS, OPERATIONS, GIGABYTES, OPERATIONS, OPERATIONS, GIGABYTES)
def test_any_bill_is_what_integer_arithmetic_makes_of_it(
    stored: Decimal, a: int, b: int, cold: Decimal, cold_a: int, cold_b: int, read: Decimal
) -> None:
    found = bill(
        Usage(
            standard=StandardUsage(gb_month=stored, class_a=a, class_b=b),
            infrequent_access=InfrequentAccessUsage(gb_month=cold, class_a=cold_a, class_b=cold_b, retrieval_gb=read),
        )
    )
    lines = [
        (Fraction(stored), 10, 1, 15_000),
        (Fraction(a), 10**6, 10**6, 4_500_000),
        (Fraction(b), 10**7, 10**6, 360_000),
        (Fraction(cold), 0, 1, 10_000),
        (Fraction(cold_a), 0, 10**6, 9_000_000),
        (Fraction(cold_b), 0, 10**6, 900_000),
        (Fraction(read), 0, 1, 10_000),
    ]
    beyond = [(max(quantity - free, Fraction(0)) / unit, microusd) for quantity, free, unit, microusd in lines]
    assert Fraction(found.exact_usd) * 10**6 == sum(units * microusd for units, microusd in beyond)
    assert Fraction(found.billed_usd) * 10**6 == sum(-(-units // 1) * microusd for units, microusd in beyond)
    assert 0 <= found.billed_usd - found.exact_usd < Decimal("15.185")  # a unit of each line
    assert found.billed_usd == sum(bill_line.billable_units * bill_line.unit_price_usd for bill_line in found.lines)


@pytest.mark.parametrize(
    "document",
    [
        {"standard": {"gb_month": -1}},
        {"standard": {"gb_month": Decimal("NaN")}},
        {"standard": {"class_a": Decimal("NaN")}},
        {"standard": {"gb_month": float("inf")}},
        {"standard": {"gb_month": 10**9 + 1}},
        {"standard": {"gb_month": "750"}},
        {"standard": {"class_a": True}},
        {"standard": {"class_a": Decimal("1.5")}},
        {"standard": {"class_b": 10**14 + 1}},
        {"standard": {"retrieval_gb": 1}},
        {"standard": None},
        {"egress_gb": 1},
        [],
    ],
    ids=str,
)
def test_impossible_usage_is_refused(document: object) -> None:
    with pytest.raises(ValidationError):
        Usage.model_validate(document)


def test_an_object_costs_its_storage_and_its_reads_until_its_retention_ends() -> None:
    assert cost_until(30 * 10**6, 30) == Decimal("0.00045")
    assert cost_until(GB, 60) == Decimal("0.03")
    assert cost_until(GB, 0) == cost_until(0, 400) == 0
    assert cost_until(GB, 30, reads=1_000_000) == Decimal("0.375")


def test_infrequent_access_pays_only_for_what_stays_and_is_hardly_read() -> None:
    """It beats Standard when more than 20 days of life remain, and never when read in full every other month."""
    cold = StorageClass.INFREQUENT_ACCESS
    assert cost_until(GB, 5, cold) == cost_until(GB, 30, cold) == Decimal("0.01")
    assert cost_until(GB, 19, cold) > cost_until(GB, 19)
    assert cost_until(GB, 21, cold) < cost_until(GB, 21)
    assert cost_until(GB, 60, cold, reads=1) > cost_until(GB, 60, reads=1)


@pytest.mark.parametrize(
    ("stored", "removed_gb", "days_left", "billed", "exact"),
    [
        ("9", 5, 30, "0", "0"),  # all of it is free
        ("12", 1, 30, "0.015", "0.015"),
        ("12.5", 1, 10, "0", "0.005"),  # a third of a GB-month: the rounding up stays at 13
        ("12.2", 1, 10, "0.015", "0.005"),  # and here it does not
        ("10.5", 1, 30, "0.015", "0.0075"),  # the half below the allowance was free
        ("12", 1, 0, "0", "0"),
        ("1", 100, 30, "0", "0"),
    ],
)
def test_removing_bytes_saves_the_rest_of_this_month(
    stored: str, removed_gb: int, days_left: int, billed: str, exact: str
) -> None:
    saving = saving_this_month(Usage(standard=StandardUsage(gb_month=Decimal(stored))), removed_gb * GB, days_left)
    assert saving.billed_usd == Decimal(billed)
    assert round(saving.exact_usd, 12) == Decimal(exact)


@given(GIGABYTES, st.integers(0, 10**15), st.integers(0, 30))
def test_removing_bytes_never_costs_anything(stored: Decimal, size_bytes: int, days_left: int) -> None:
    saving = saving_this_month(Usage(standard=StandardUsage(gb_month=stored)), size_bytes, days_left)
    assert saving.billed_usd >= 0
    assert saving.exact_usd >= 0


def test_the_first_ten_gigabytes_are_free_and_the_next_byte_is_not() -> None:
    assert priced({"gb_month": 0}).exact_usd == priced({"gb_month": 10}).exact_usd == 0
    assert priced({"gb_month": 10 + Decimal(1) / GB}).exact_usd == Decimal("0.000000000015")
    assert priced({"gb_month": 11}).exact_usd == Decimal("0.015")


@pytest.mark.parametrize(
    ("size_bytes", "microusd"),
    [(0, 0), (GB, 15_000), (-GB, -15_000), (10**15, 15 * 10**9), (33_333, 0), (33_334, 1), (100_000, 2), (166_667, 3)],
)
def test_a_saving_is_whole_microdollars(size_bytes: int, microusd: int) -> None:
    assert storage_microusd_per_month(size_bytes) == microusd


@given(st.integers(0, 10**18))
def test_rounding_is_half_to_even_and_exact_at_any_size(size_bytes: int) -> None:
    assert storage_microusd_per_month(size_bytes) == round(Fraction(size_bytes * 15, 10**6))
