"""`bill`: a usage document priced."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run

Ask = Callable[..., Any]
DOCUMENT = {
    "standard": {"gb_month": 750, "class_a": 1200000, "class_b": 9000000},
    "infrequent_access": {"gb_month": 0, "class_a": 0, "class_b": 0, "retrieval_gb": 0},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    """Write a usage document, as an object or as text; returns its path."""

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
        ('{"standard": {"gb_month": 1e400}}', "less than or equal to 1000000000"),
        ('{"standard": {"class_a": 1e30}}', "less than or equal to 100000000000000"),
        ('{"standard": {"class_a": 1.5}}', "standard.class_a is 1.5"),
        ('{"standard": {"gb_month": "750"}}', "must be a number"),
        ('{"standard": {"gigabytes": 1}}', "standard.gigabytes"),
        ('{"standard": {}, "standard": {}}', "twice"),
        ("[]", "dictionary"),
        ("no JSON", "line 1"),
        ("[" * 100_000, "recursion"),
        ('{"standard": {"class_a": ' + "9" * 5_000 + "}}", "4300"),
    ],
    ids=lambda text: text[:40],
)
def test_what_cannot_be_usage_ends_with_2_and_says_why(
    reelkeeper: Run, write: Callable[[object], Path], text: str, said: str
) -> None:
    result = reelkeeper("bill", "--usage", write(text), "--json", exit_code=2)
    assert result.stdout == ""
    assert said in " ".join(result.stderr.replace("│", "").split())


def test_a_file_that_is_not_there_ends_with_2(reelkeeper: Run, tmp_path: Path) -> None:
    reelkeeper("bill", "--usage", tmp_path / "none.json", exit_code=2)


def test_people_get_a_table_of_what_was_used(reelkeeper: Run, write: Callable[[object], Path]) -> None:
    said = reelkeeper("bill", "--usage", write(DOCUMENT)).stdout
    assert [line.split()[0] for line in said.splitlines()[1:]] == [
        *("r2-storage-standard", "r2-class-a-standard", "r2-class-b-standard", "total")
    ]
    assert "15.60" in said.splitlines()[-1]
