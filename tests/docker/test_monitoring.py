"""Dashboard and alert rules use only metrics and labels that our API exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "monitoring"
_FAMILY = re.compile(r"_(bucket|sum|count)$")
_METRIC = re.compile(r"\b(reelkeeper_\w+)(?:\{([^}]*)\})?")


def known() -> dict[str, set[str]]:
    """The labels of each metric, as the page has them, which is held against `/v1/metrics` by a test of its own."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(reelkeeper_\w+)` \| ?(.*?) ?\|", page, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads((FOLDER / "grafana.json").read_text())["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Every query, with the text in which its labels are named."""
    for rule in rules():
        yield rule["expr"], rule["annotations"]["summary"]
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


@pytest.mark.parametrize(("query", "told"), sorted(set(queries())))
def test_each_query_asks_for_what_is_collected(query: str, told: str) -> None:
    metrics = known()
    asked = _METRIC.findall(query)
    assert asked or query.startswith("up{")
    labels = set()
    for series, chosen in asked:
        name = series if series in metrics else _FAMILY.sub("", series)
        assert name in metrics, f"{query} asks for {name}, which is not collected"
        labels |= metrics[name]
        assert set(re.findall(r"(\w+)(?:=|!=|=~)", chosen)) <= metrics[name], query
    grouped = {label.strip() for group in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in group.split(",")}
    named = set(re.findall(r"\{\{ ?(\w+) ?\}\}", told)) | set(re.findall(r"\$labels\.(\w+)", told))
    assert grouped | named <= labels | {"le"}, (query, told)


def test_every_collected_metric_is_on_the_dashboard() -> None:
    asked = {name for query, _ in queries() for name, _ in _METRIC.findall(query)}
    shown = asked | {_FAMILY.sub("", name) for name in asked}
    left_out = {
        "reelkeeper_build_info",
        "reelkeeper_retired_blobs",
        "reelkeeper_next_purge_timestamp_seconds",
        "reelkeeper_store_rows",
    }
    assert known().keys() - shown == left_out | {"reelkeeper_dispatch_starts_total"}


def test_each_rule_says_what_to_do_and_each_panel_has_a_place_of_its_own() -> None:
    assert all(
        rule["labels"]["severity"] in {"warning", "critical"} and rule["annotations"]["summary"] for rule in rules()
    )
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, page
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert panel["description"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
