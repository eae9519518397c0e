"""The built pages are consistent, and load nothing from elsewhere."""

import json
import pkgutil
import re
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from pydantic import BaseModel

from docs.generated import api, commands, errors, flows, policies
from docs.generated.pages import by_hand
from reelkeeper import rules
from reelkeeper.model.requests import RefusedFor
from reelkeeper.rules.core.tiers import SHIPPED, TierPolicy
from reelkeeper.settings import Settings
from tests.docs.conftest import ROOT

pytestmark = pytest.mark.long("it builds the pages, in ten seconds")
LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "use": "href",
}
RULES = [import_module(each.name) for each in pkgutil.walk_packages(rules.__path__, "reelkeeper.rules.")]


class Page(HTMLParser):
    """One page: where its links lead, what it loads, which anchors it has, its tables' rows, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.said: list[str] = []
        self.rows: list[list[str]] = []
        self.in_a_cell = False
        self.feed(text)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.anchors |= {known[name] or "" for name in ("id", "name") if name in known}
        if tag == "a" and known.get("href"):
            self.links.append(known["href"] or "")
        elif tag in LOADED and known.get("rel") != "canonical" and known.get(LOADED[tag]):
            self.loads.append(known[LOADED[tag]] or "")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_a_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_a_cell = self.in_a_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.said.append(data)
        if self.in_a_cell:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        """All that it says."""
        return "".join(self.said)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_is_in_the_navigation_and_was_built(pages: dict[str, Page]) -> None:
    written = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").rglob("*.md")}
    assert written
    assert {name.removesuffix(".html") for name in pages} == written | {"404"}
    assert {link.removesuffix(".html") for link in pages["index.html"].links if link.endswith(".html")} >= written


def test_every_link_inside_leads_somewhere_and_so_does_its_anchor(pages: dict[str, Page], site: Path) -> None:
    broken = []
    for name, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(link)
            if urlsplit(link).scheme or name == "404.html":  # that one is served for any path, and links from the root
                continue
            place = (site / name).parent / unquote(target) if target else site / name
            if not place.resolve().exists():
                broken.append(f"{name}: {link}")
            elif anchor and (other := pages.get(str(place.resolve().relative_to(site.resolve())))):
                broken += [f"{name}: {link}"] if unquote(anchor) not in other.anchors else []
    assert broken == []


def test_anchors_that_the_readme_links_to_exist(pages: dict[str, Page]) -> None:
    pointed = [
        found
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")
        for found in re.findall(r"\]\(docs/([\w-]+)\.md#([^)]+)\)", (ROOT / name).read_text())
    ]
    assert pointed
    assert not [f"{page}#{anchor}" for page, anchor in pointed if anchor not in pages[f"{page}.html"].anchors]


def test_no_page_loads_anything_from_elsewhere(pages: dict[str, Page], site: Path) -> None:
    assert any(page.loads for page in pages.values())
    elsewhere = {f"{name}: {load}" for name, page in pages.items() for load in page.loads if urlsplit(load).netloc}
    assert elsewhere == set()
    sheets = [path.read_text() for path in site.rglob("*.css")]
    assert sheets
    assert not [sheet for sheet in sheets if "url(http" in sheet or "url(//" in sheet or "@import" in sheet]


def test_no_code_is_published(site: Path) -> None:
    assert not [*site.rglob("*.py")]


def test_every_setting_threshold_command_route_and_exit_code_is_documented(pages: dict[str, Page]) -> None:
    settings = {f"REELKEEPER_{name.upper()}" for name in Settings.model_fields}
    thresholds = {row[0].strip("`") for prefix, policy in policies.used() for row in policies.fields(prefix, policy)}
    assert len(settings) > 30
    assert len(thresholds) > 80
    assert not [setting for setting in settings if setting not in pages["settings.html"].text]
    assert not [threshold for threshold in thresholds if threshold not in pages["policies.html"].text]
    assert not [path for path, _ in commands.walk() if path.replace(" ", "-") not in pages["commands.html"].anchors]
    assert len(api.routes()) > 10
    assert not [
        f"{method} {path}" for method, path, _ in api.routes() if f"{method} {path}" not in pages["api.html"].text
    ]
    assert {f"{method} {path}" for method, path, _ in api.routes()} <= {row[0] for row in pages["api.html"].rows if row}
    assert not [kind for kind in errors.kinds() if kind.__name__ not in pages["exit-codes.html"].text]
    codes = {"0", *(str(kind.exit_code) for kind in errors.kinds())}
    assert codes <= {cells[0] for cells in pages["exit-codes.html"].rows if cells}


def test_no_removed_threshold_is_mentioned() -> None:
    known = {row[0].strip("`") for prefix, policy in policies.used() for row in policies.fields(prefix, policy)}
    prefixes = "|".join(sorted({name.partition(".")[0] for name in known}))
    texts = {path: by_hand(path.read_text()) for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
    spoken = [(path.name, name) for path in texts for name in re.findall(rf"`((?:{prefixes})\.\w[\w.]*)", texts[path])]
    assert len(spoken) > 12
    assert not [(page, name) for page, name in spoken if name not in known]


def test_every_threshold_of_every_policy_is_documented_with_its_default(pages: dict[str, Page]) -> None:
    kinds = {kind for module in RULES for kind in vars(module).values() if isinstance(kind, type)}
    found = {kind for kind in kinds if issubclass(kind, BaseModel) and kind.__name__.endswith("Policy")}
    assert len(found) > 12
    rows = {
        (cells[0].rpartition(".")[2], cells[2], cells[3])
        for cells in pages["policies.html"].rows
        if len(cells) == len(("parameter", "type", "default", "description"))
    }
    wanted = {
        (
            name,
            "never" if field.default is None and name.endswith(("_days", "_views")) else " ".join(shown(field.default)),
            " ".join((field.description or "").replace("`", "").split()),
        )
        for kind in found - {TierPolicy}
        for name, field in kind.model_fields.items()
        if not isinstance(field.default, BaseModel)
    }
    assert len(wanted) > 60
    assert wanted - rows == set()
    told = {name: (usual, said) for name, usual, said in rows}
    for name, field in TierPolicy.model_fields.items():  # of each tier that is shipped
        usual, said = told[name]
        shipped = {tier: str(getattr(values, name)) for tier, values in SHIPPED.items()}
        assert said == field.description
        assert usual in shipped.values() or all(f"{tier} {value}" in usual for tier, value in shipped.items())


def shown(default: object) -> list[str]:
    """Return a default as a reader sees it, in words."""
    value = "none" if default is None else list(default) if isinstance(default, tuple) else default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (f"{value:,}" if number else value if isinstance(value, str) else json.dumps(value, default=str)).split()


def test_every_rule_of_the_lifecycle_is_documented_with_its_action(pages: dict[str, Page]) -> None:
    sentences = next(module.SENTENCES for module in RULES if hasattr(module, "SENTENCES"))
    told = {rule: cells[1] for cells in pages["lifecycle.html"].rows for rule in cells[0].split(", ") if len(cells) > 1}
    assert told.keys() >= sentences.keys()
    acts = dict.fromkeys(("past_retention", "cold_retire"), "retire")
    acts |= dict.fromkeys(("tried_to_learn", "cold_compress"), "compress")
    assert {rule: told[rule] for rule in sentences} == {rule: acts.get(rule, "keep") for rule in sentences}


def test_every_kind_of_problem_of_the_api_is_documented(pages: dict[str, Page]) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "reelkeeper" / "api").rglob("*.py"))
    kinds = {*re.findall(r"\b(?:problem|Shed)\(\d+, \"([\w-]+)\"", sources), *map(str, RefusedFor)}
    assert len(kinds) > 12
    assert not [kind for kind in kinds if f"urn:reelkeeper:{kind}" not in pages["api.html"].text]


def test_every_flow_has_its_section_and_every_parameter_is_in_it(pages: dict[str, Page]) -> None:
    assert not [name for name in flows.names() if name not in pages["flows.html"].anchors]
    told = (ROOT / "docs" / "flows.md").read_text()
    assert not [name for name in flows.names() if f"\n<!-- generated: flow {name} -->\n" not in told]


def test_every_policy_of_a_flow_is_listed_with_its_flows(pages: dict[str, Page]) -> None:
    text = pages["policies.html"].text
    for (name, policy), takers in policies.used().items():
        assert flows.titled(name, policy) in text
        assert takers


def test_the_order_of_the_navigation_names_each_page_once() -> None:
    def listed(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        children = node if isinstance(node, list) else node.values() if isinstance(node, dict) else []
        return [page for child in children for page in listed(child)]

    found = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(found) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
