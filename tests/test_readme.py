"""The README fits two screens, and its files, pictures, flows, commands and links exist."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
FLOWS = sorted(path.stem for path in (ROOT / "flows").glob("[a-z]*.py"))
MAP = re.findall(r"^\| ([^|]+) \| ((?:`[\w/.]+`[,;]? ?)+) \|$", README, re.MULTILINE)
MAPPED = [(what, path) for what, paths in MAP for path in re.findall(r"`([\w/.]+)`", paths)]
PICTURES = re.findall(r'!\[[^\]]+\]\(([^)]+)\)|<img src="([^"]+)"', README)
NEWCOMERS = {  # what a newcomer wants to change, as the map says it, and what the file must then have
    "when a video is compressed": "compress_below_views",
    "the price of a job": "base_usd",
    "how Slack shows it": "blocks",
    "what a purge checks": "freeze",
    "which job is next": "def order",
    "how the forecast is made": "median",
    "the sandbox": "Landlock",
    "a tier and its quota": "quota_bytes",
    "what runs when": "cron",
    "an API error": "problem+json",
    "token scopes": "class Scope",
    "the CSV import": "def import_videos",
    "the window of an overwrite": "LOOK_SECONDS",
    "what an erasure deletes: rows": "def _delete(",
    "how a webhook is signed": "webhook-signature",
    "what `status` prints": "def _panel",
    "how often and how long one is asked again": "def pause_seconds",
    "a plan on screen": "def by_rule",
    "a plan as JSON": "class SavedPlan",
    "how long a URL is valid": "url_seconds",
    "when a webhook, or Slack, is tried again": "FIRST_RETRY_SECONDS",
    "SQLite's pragmas": "PRAGMA",
    "a full disk": "DiskFull",
}


def test_the_readme_has_two_screens() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize(("what", "path"), MAPPED)
def test_the_paths_in_the_map_exist(what: str, path: str) -> None:  # noqa: ARG001  what says where to mend it
    place = ROOT / path
    assert place.is_dir() if path.endswith("/") else place.is_file()


@pytest.mark.parametrize(("wanted", "held"), NEWCOMERS.items())
def test_a_newcomer_finds_the_file_in_which_to_change_it(wanted: str, held: str) -> None:
    rows = [paths for what, paths in MAP if wanted in what]
    assert len(rows) == 1
    files = [ROOT / path for path in re.findall(r"`([\w/.]+)`", rows[0])]
    assert held in "".join(path.read_text() for path in files if path.is_file())


def test_every_room_is_in_the_map() -> None:
    assert len(MAPPED) > 25
    tree = README.partition("## Map")[2].partition("| To change")[0]
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} - {"bench"}
    rooms |= {path.name for path in (ROOT / "reelkeeper").iterdir() if (path / "__init__.py").exists()}
    assert rooms
    assert not [room for room in rooms if f"{room}/" not in tree]


def test_every_capability_is_in_the_map_and_in_the_page_of_architecture() -> None:
    layers = [ROOT / "reelkeeper" / name for name in ("rules", "operations", "store")]
    words = {path.parent.name for layer in layers for path in layer.glob("*/__init__.py")} - {"tables", "migrations"}
    told = re.findall(r"^ +((?:[a-z]+ ?){8,})$", README, re.MULTILINE)
    assert {word for line in told for word in line.split()} == words
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert words == set(re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE))


def test_the_readmes_pictures_exist_and_need_no_style_of_a_page() -> None:
    places = [ROOT / (plain or tag) for plain, tag in PICTURES]
    assert [place.suffix for place in places] == [".png", ".svg"]
    for place in places:
        if place.suffix == ".png":
            assert place.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
            assert place.stat().st_size < 400_000
        else:
            drawn = ET.fromstring(place.read_text())  # noqa: S314  our own file
            style = drawn.findtext("{http://www.w3.org/2000/svg}style") or ""
            assert "prefers-color-scheme: dark" in style
            used = {name for each in drawn.iter() for name in each.get("class", "").split()}
            assert not [name for name in used if f".{name} " not in style]


def test_the_readme_lists_every_flow() -> None:
    assert FLOWS
    assert not [flow for flow in FLOWS if not re.search(rf"^\| `{flow}` \|", README, re.MULTILINE)]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_a_page_points_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    pointed = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    pointed += re.findall(
        r"`((?:reelkeeper|flows|tasks|tests|bench|deployments|docs|docker)/[\w/-]+\.(?:py|csv|md|sh))`", text
    )
    assert pointed
    assert not [path for path in pointed if not (ROOT / path).exists()]


def test_every_page_of_docs_is_linked() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/index.md", "docs/glossary.md"}
    assert not [page for page in sorted(pages) if f"]({page}" not in README]


def test_contributing_lists_every_make_target() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not [target for target in targets if f"make {target}" not in CONTRIBUTING]
    assert not [target for target in ("demo", "test", "docs") if f"make {target}" not in README]


def test_contributing_is_one_page() -> None:
    assert len(CONTRIBUTING.splitlines()) <= 80
