"""`catalogue check`: the lines of the policies to change, from fal's, OpenRouter's and LiteLLM's lists."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.operations.core.policies import current
from reelkeeper.operations.core.policy_document import read
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_store
from tests.cli.conftest import Run
from tests.doubles.fal import FalDouble
from tests.doubles.openrouter import OpenRouterDouble
from tests.doubles.vendor import TOKEN
from tests.policies import put_in_force

Ask = Callable[..., Any]
READ = {"source": "a list", "read_on": "2026-11-25"}
VEO, WAN, KLING = "google/veo-3.1", "wan/wan-3", "fal-ai/kling"
BOOK = {
    "models": [
        {
            "model": "veo",
            "provider": "openrouter",
            "vendor_model": VEO,
            "limits": {"seconds": [4, 6, 8], "resolutions": ["720p", "2160p"], "audio": "choice"},
            "price": {
                "unit": "second",
                "rates": [{"audio": False, "usd": "0.20"}, {"audio": True, "usd": "0.40"}],
                **READ,
            },
        },
        {
            "model": "kling",
            "provider": "fal",
            "vendor_model": KLING,
            "price": {"unit": "second", "rates": [{"usd": "0.1"}], **READ},
            "offers": [
                {
                    "provider": "runway",
                    "vendor_model": "kling4",
                    "price": {"unit": "second", "rates": [{"resolution": "720p", "usd": "0.12"}], **READ},
                }
            ],
        },
    ]
}
LISTED = {
    "id": VEO,
    "supported_durations": [4, 6, 8],
    "supported_resolutions": ["720p", "4K"],
    "supported_aspect_ratios": None,
    "generate_audio": True,
    "pricing_skus": {"duration_seconds_without_audio": "0.2", "duration_seconds_with_audio": "0.4"},
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "litellm.json"
    row = {"output_cost_per_second_720p": 0.12, "output_cost_per_second_4k": 0.5, "deprecation_date": "2099-01-01"}
    path.write_text(json.dumps({"sample_spec": {}, "runwayml/kling4": row}))
    return path


@pytest.fixture
def vendors(configured: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FalDouble, OpenRouterDouble]]:
    with FalDouble().serving() as fal, OpenRouterDouble().serving() as openrouter:
        for name, vendor in {"FAL": fal, "OPENROUTER": openrouter}.items():
            monkeypatch.setenv(f"REELKEEPER_{name}_URL", vendor.url)
            monkeypatch.setenv(f"REELKEEPER_{name}_TOKEN", TOKEN)
        monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")
        openrouter.models = [LISTED]
        with open_store(configured) as engine:
            put_in_force(engine, book=PriceBook.model_validate(BOOK))
        yield fal, openrouter


def test_a_catalogue_as_published_ends_with_0(
    ask: Ask, reelkeeper: Run, vendors: tuple[FalDouble, OpenRouterDouble], table: Path
) -> None:
    assert vendors
    found = ask("catalogue", "check", "--litellm", table)
    assert (found["differences"], found["compared"], found["unpublished"]) == ([], 3, [])
    assert [(told["model"], told["provider"]) for told in found["warnings"]] == [("kling", "runway")], "it will end"
    assert "0 to change" in reelkeeper("catalogue", "check", "--litellm", table).stdout


def test_the_lines_to_change_can_be_pasted(
    reelkeeper: Run, vendors: tuple[FalDouble, OpenRouterDouble], table: Path, configured: Settings
) -> None:
    fal, openrouter = vendors
    fal.prices[KLING] = {"unit_price": 0.15, "unit": "seconds"}
    dearer = {"duration_seconds_without_audio": "0.2", "duration_seconds_with_audio": "0.44"}
    openrouter.models = [LISTED | {"pricing_skus": dearer, "supported_durations": [4, 8]}]
    found = json.loads(reelkeeper("catalogue", "check", "--litellm", table, "--json", exit_code=1).stdout)
    assert [(told["model"], told["provider"]) for told in found["differences"]] == [
        ("veo", "openrouter"),
        ("kling", "fal"),
    ]
    kling = found["differences"][1]["lines"]
    changed = [(line[0], line.partition("usd: ")[2]) for line in kling[2:] if line[0] in "+-" and "usd" in line]
    assert changed == [("-", "0.1}"), ("+", "0.15}")]
    table.write_text(table.read_text().replace("0.12", "0.24"))
    both = json.loads(reelkeeper("catalogue", "check", "--litellm", table, "--json", exit_code=1).stdout)
    runway = both["differences"][2]["lines"]
    assert [line for line in runway if "0.15" in line and line[0] == " "], "on top of the change at fal"
    only = json.loads(reelkeeper("catalogue", "check", "--vendor", "fal", "--json", exit_code=1).stdout)
    assert [told["provider"] for told in only["differences"]] == ["fal"]
    pasted = [line[1:] for line in found["differences"][0]["lines"][2:] if line[0] in " +"]
    assert read("book:\n  models:\n" + "\n".join(pasted), "pasted").book.models[0].limits.seconds == (
        Decimal(4),
        Decimal(8),
    )
    with open_store(configured) as engine:
        assert current(engine).policies.book == PriceBook.model_validate(BOOK), "nothing was changed"


def test_a_model_that_openrouter_lists_no_more_goes(
    reelkeeper: Run, vendors: tuple[FalDouble, OpenRouterDouble]
) -> None:
    vendors[1].models = [LISTED | {"id": WAN}]
    found = json.loads(reelkeeper("catalogue", "check", "--json", exit_code=1).stdout)
    (gone,) = found["differences"]
    assert (gone["model"], {line[0] for line in gone["lines"][2:]}) == ("veo", {"@", "-"})
    assert found["unpublished"] == [{"model": "kling", "provider": "runway"}], "without LiteLLM's table"


def test_a_vendor_that_does_not_answer_is_named_and_the_others_are_compared(
    reelkeeper: Run, vendors: tuple[FalDouble, OpenRouterDouble]
) -> None:
    fal, openrouter = vendors
    openrouter.models = []  # an empty list proves nothing
    found = json.loads(reelkeeper("catalogue", "check", "--json", exit_code=6).stdout)
    assert (list(found["unreachable"]), found["compared"], found["differences"]) == (["openrouter"], 1, [])
    fal.prices[KLING] = {"unit_price": 9.0}
    openrouter.models = [LISTED]
    found = json.loads(reelkeeper("catalogue", "check", "--json").stdout)
    assert (found["differences"], [told["model"] for told in found["warnings"]]) == ([], ["kling"]), "absurd"


def test_what_cannot_be_compared_is_said(reelkeeper: Run, configured: Settings, tmp_path: Path) -> None:
    assert configured
    reelkeeper("catalogue", "check", exit_code=2)  # nothing to compare with
    reelkeeper("catalogue", "check", "--litellm", tmp_path / "none.json", exit_code=9)
    (tmp_path / "list.json").write_text("[]")
    reelkeeper("catalogue", "check", "--litellm", tmp_path / "list.json", exit_code=9)
    (tmp_path / "table.json").write_text("{}")
    reelkeeper("catalogue", "check", "--litellm", tmp_path / "table.json", "--vendor", "nobody", exit_code=2)
