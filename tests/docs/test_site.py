"""The built pages hold together, and load nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml

from docs.generated import api, commands, errors, flows, policies
from reelkeeper.model.requests import RefusedFor
from reelkeeper.settings import Settings
from tests.docs.conftest import ROOT

LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "use": "href",
}


class Page(HTMLParser):
    """One page: where its links lead, what it loads, which anchors it has, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.anchors |= {known[name] or "" for name in ("id", "name") if name in known}
        if tag == "a" and known.get("href"):
            self.links.append(known["href"] or "")
        elif tag in LOADED and known.get("rel") != "canonical" and known.get(LOADED[tag]):
            self.loads.append(known[LOADED[tag]] or "")

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        """All that it says."""
        return "".join(self.said)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_is_in_the_navigation_and_was_built(pages: dict[str, Page]) -> None:
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
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


def test_what_the_readme_points_to_in_a_page_is_there(pages: dict[str, Page]) -> None:
    pointed = re.findall(r"\]\(docs/([\w-]+)\.md#([^)]+)\)", (ROOT / "README.md").read_text())
    assert pointed
    assert not [f"{page}#{anchor}" for page, anchor in pointed if anchor not in pages[f"{page}.html"].anchors]


def test_no_page_loads_anything_from_elsewhere(pages: dict[str, Page], site: Path) -> None:
    assert any(page.loads for page in pages.values())
    elsewhere = {f"{name}: {load}" for name, page in pages.items() for load in page.loads if urlsplit(load).netloc}
    assert elsewhere == set()
    sheets = [path.read_text() for path in site.rglob("*.css")]
    assert sheets
    assert not [sheet for sheet in sheets if "url(http" in sheet or "url(//" in sheet or "@import" in sheet]


def test_no_code_or_source_of_a_drawing_is_published(site: Path) -> None:
    assert not [*site.rglob("*.py"), *site.rglob("drawings/*")]


def test_every_setting_threshold_command_route_and_exit_code_is_there(pages: dict[str, Page]) -> None:
    settings = {f"REELKEEPER_{name.upper()}" for name in Settings.model_fields}
    thresholds = {row[0].strip("`") for prefix, policy in policies.used() for row in policies.fields(prefix, policy)}
    assert len(settings) > 30
    assert len(thresholds) > 80
    assert not [one for one in settings if one not in pages["settings.html"].text]
    assert not [one for one in thresholds if one not in pages["policies.html"].text]
    assert not [path for path, _ in commands.walk() if path.replace(" ", "-") not in pages["commands.html"].anchors]
    assert len(api.routes()) > 10
    assert not [
        f"{method} {path}" for method, path, _ in api.routes() if f"{method} {path}" not in pages["api.html"].text
    ]
    assert not [one for one in errors.kinds() if one.__name__ not in pages["exit-codes.html"].text]


def test_every_kind_of_problem_that_the_api_answers_is_there(pages: dict[str, Page]) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "reelkeeper" / "api").rglob("*.py"))
    kinds = {*re.findall(r"\b(?:problem|Shed)\(\d+, \"([\w-]+)\"", sources), *map(str, RefusedFor)}
    assert len(kinds) > 12
    assert not [kind for kind in kinds if f"urn:reelkeeper:{kind}" not in pages["api.html"].text]


def test_every_flow_has_its_section_and_every_parameter_is_in_it(pages: dict[str, Page]) -> None:
    assert not [name for name in flows.names() if name not in pages["flows.html"].anchors]
    told = (ROOT / "docs" / "flows.md").read_text()
    assert not [name for name in flows.names() if f"<!-- generated: flow {name} -->" not in told]


def test_every_policy_of_a_flow_is_named_with_who_takes_it(pages: dict[str, Page]) -> None:
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
    assert sorted(found) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
