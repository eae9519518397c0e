"""The report in a real Chromium: no errors, complete on a phone, readable in dark mode and on paper."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from reelkeeper.operations.reports.page import page
from reelkeeper.operations.reports.report import gather
from reelkeeper.store.core.engine import open_engine
from tests.browser import PALE, SCREENSHOTS, SIZES
from tests.operations import months


def test_the_eye_for_pale_text_sees_it(chromium: Browser) -> None:
    tab = chromium.new_page()
    tab.set_content("<p style='color: #999; background: #fff'>pale</p><p style='color: #555'>dark</p>")
    assert [text for text, _ in tab.evaluate(PALE)] == ["pale"]
    tab.close()


@pytest.fixture(scope="module")
def pages(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a full month, and of an empty store."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copyfile(migrated_file, folder / "store.sqlite3")
    engine = open_engine(f"sqlite:///{folder / 'store.sqlite3'}")
    for name in ("empty", "full"):
        if name == "full":
            months.fill(engine)
        (folder / f"{name}.html").write_text(page(gather(engine, months.MONTH, months.NOW)))
    engine.dispose()
    return {name: folder / f"{name}.html" for name in ("empty", "full")}


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(SIZES))
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["full", "empty"])
def shown(
    request: pytest.FixtureRequest, chromium: Browser, pages: dict[str, Path], scheme: str, size: str
) -> Iterator[Page]:
    """The page as opened from a file, its tables unfolded. Whatever it asks for, or complains of, fails the test."""
    width, height = SIZES[size]
    colours: Any = scheme
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
    tab, asked, said = context.new_page(), list[str](), list[str]()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    address = pages[request.param].as_uri()
    tab.goto(address)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"{request.param}-{scheme}-{size}.png", full_page=True)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    yield tab
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert said == []
    context.close()


def test_the_page_loads_nothing_fits_its_window_and_is_readable(shown: Page, size: str, scheme: str) -> None:
    assert shown.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert shown.evaluate(PALE) == []
    outside = "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll'))"
    assert shown.evaluate(f"{outside}.every((one) => one.getBoundingClientRect().right <= innerWidth)")
    ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 64) == (scheme == "dark")


def test_each_window_gets_the_picture_that_was_made_for_it(shown: Page, size: str, scheme: str) -> None:
    drawn = shown.evaluate(
        "Promise.all([...document.images].map(async (one) => {"
        " await one.decode(); return [one.naturalWidth, atob(one.currentSrc.split(',')[1])] }))"
    )
    assert drawn
    for width, svg in drawn:
        assert width == {"wide": 760, "phone": 360}[size]
        assert ("#161a22" in svg) == (scheme == "dark")


def test_screen_readers_get_headings_names_and_text(shown: Page) -> None:
    assert shown.evaluate("document.documentElement.lang") == "en"
    assert shown.evaluate("[...document.images].every((one) => one.alt.length > 20)")
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(later - before <= 1 for before, later in pairwise(levels))
    named = "(one) => document.getElementById(one.getAttribute('aria-labelledby'))"
    assert shown.evaluate(f"[...document.querySelectorAll('section')].every({named})")
    ids = shown.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert shown.evaluate("[...document.querySelectorAll('table')].every((one) => one.caption && one.tHead)")


def test_the_page_prints_in_the_light_theme_with_open_tables(chromium: Browser, pages: dict[str, Path]) -> None:
    context = chromium.new_context(color_scheme="dark")
    tab = context.new_page()
    tab.goto(pages["full"].as_uri())
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--card').trim()") == "#ffffff"
    # A browser chooses an image's source anew some time after its media changed.
    tab.wait_for_function("atob(document.images[0].currentSrc.split(',')[1]).includes('#ffffff')")
    assert tab.locator("details table").first.is_visible()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    printed = tab.pdf(path=SCREENSHOTS / "print.pdf", format="A4")
    assert printed[:5] == b"%PDF-"
    context.close()
