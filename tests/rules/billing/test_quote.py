"""The price of a job: the request, its cost, and a price book that cannot sell below cost unnoticed."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.rules.billing.catalogue import JobPrice, ModelEntry
from reelkeeper.rules.billing.quote import JobSpec, PriceBook, Quote, quote

BOOK = PriceBook()
AT_COST = PriceBook(margin_percent=Decimal(0), prices=JobPrice(compute_usd=Decimal("0.005")))


def test_a_plain_job_without_margin_is_asked_a_cent() -> None:
    assert quote(JobSpec(), AT_COST) == Quote(AT_COST.mark, "", 10_000, 0, 0, 0, 10_000, 10_000)


def test_complexity_and_storage_until_the_retention_ends_come_on_top() -> None:
    job = JobSpec(complexity=Decimal(2), size_bytes=30 * 10**6, retention_days=30)
    found = quote(job, AT_COST)
    assert (found.base_microusd, found.complexity_microusd, found.storage_microusd) == (10_000, 5_000, 450)
    assert found.total_microusd == 15_450


def test_the_margin_is_on_all_of_it() -> None:
    found = quote(JobSpec(complexity=Decimal(2), size_bytes=30 * 10**6, retention_days=30), BOOK)
    assert found.total_microusd == 23_175
    assert found.margin_microusd == 7_725
    assert found.cost_microusd == 15_450


def test_a_video_kept_for_ever_is_asked_a_year() -> None:
    size_bytes = 10**9
    assert quote(JobSpec(size_bytes=size_bytes)) == quote(JobSpec(size_bytes=size_bytes, retention_days=365))


def test_a_model_has_its_own_price() -> None:
    dear = ModelEntry(model="dear", price=JobPrice(base_usd=Decimal("0.80"), compute_usd=Decimal("0.7")))
    book = PriceBook(models=(dear,))
    assert quote(JobSpec(model="dear"), book).total_microusd == 1_200_000
    assert quote(JobSpec(model="other"), book).total_microusd == 15_000


def test_books_that_differ_never_have_the_same_mark() -> None:
    dearer = PriceBook(prices=JobPrice(base_usd=Decimal("0.011")))
    assert dearer.version == BOOK.version
    assert dearer.mark != BOOK.mark == PriceBook().mark
    assert BOOK.mark.startswith("2026-11-")
    assert quote(JobSpec(), BOOK).price_book == BOOK.mark


def test_the_default_margin_is_what_covers_the_default_costs() -> None:
    found = quote(JobSpec(), BOOK)
    assert found.total_microusd == found.cost_microusd == 15_000


@pytest.mark.parametrize(
    ("book", "said"),
    [
        (
            {"margin_percent": 49},
            snapshot(
                "(): Value error, a job of any model would be sold for 0.0149 USD and costs 0.015: raise base_usd or margin_percent"
            ),
        ),
        (
            {"models": [{"model": "m", "api_usd": 1}]},
            snapshot(
                "(): Value error, a job of m would be sold for 0.015 USD and costs 1.01: raise base_usd or margin_percent"
            ),
        ),
        (
            {"models": [{"model": "m"}, {"model": "m"}]},
            snapshot("(): Value error, a model has one price, and one of these has two: m, m"),
        ),
        ({"models": [{}]}, snapshot("('models', 0, 'model'): Field required")),
        ({"margin_percent": -1}, snapshot("('margin_percent',): Input should be greater than or equal to 0")),
        ({"prices": {"base_usd": "NaN"}}, snapshot("('prices', 'base_usd'): Input should be a finite number")),
        ({"version": "a b"}, snapshot("('version',): String should match pattern '^[\\w.-]{1,40}$'")),
        ({"currency": "EUR"}, snapshot("('currency',): Extra inputs are not permitted")),
    ],
)
def test_a_book_that_contradicts_itself_is_refused(book: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        PriceBook.model_validate(book)
    fault = refused.value.errors()[0]
    assert f"{fault['loc']}: {fault['msg']}" == said


@pytest.mark.parametrize(
    "job", [{"complexity": -1}, {"complexity": "NaN"}, {"size_bytes": 10**13}, {"retention_days": -1}]
)
def test_a_job_that_cannot_be_is_not_priced(job: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(job)


@given(
    st.decimals(0, 1000, places=6), st.integers(0, 5 * 10**12), st.integers(0, 36_500), st.decimals(50, 1000, places=4)
)
def test_the_parts_sum_to_the_total_which_is_rounded_up_and_covers_the_cost(
    complexity: Decimal, size_bytes: int, days: int, margin: Decimal
) -> None:
    book = PriceBook(margin_percent=margin)
    found = quote(JobSpec(complexity=complexity, size_bytes=size_bytes, retention_days=days), book)
    parts = (found.base_microusd, found.complexity_microusd, found.storage_microusd, found.margin_microusd)
    assert sum(parts) == found.total_microusd
    assert min(parts) >= 0
    storage = Fraction(size_bytes, 10**9) * days / 30 * 15_000
    exact = (10_000 + Fraction(complexity) * 2_500 + storage) * (1 + Fraction(margin) / 100)
    assert 0 <= found.total_microusd - exact < Fraction("1.001")
    assert found.total_microusd >= found.cost_microusd
