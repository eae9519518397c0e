"""The documentation in a real Chromium: no errors, no overflow, readable in dark mode. See build/screenshots."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import PALE, SCREENSHOTS, SIZES

pytestmark = pytest.mark.long("a browser lays out each page")
PAGES = (
    *("index", "lifecycle", "jobs", "costs", "triggering", "monitoring", "runbooks", "architecture", "from-the-sketch"),
    *("flows", "policies", "settings", "commands", "api", "exit-codes"),
)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=[(size, scheme) for size in sorted(SIZES) for scheme in ("light", "dark")], ids="-".join)
def tab(request: pytest.FixtureRequest, chromium: Browser, address: str) -> Iterator[Page]:
    """A window. Whatever it asks others for, or complains of, fails the test."""
    size, colours = request.param[0], request.param[1]
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
    tab, asked, said = context.new_page(), list[str](), list[str]()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    yield tab
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert said == []
    context.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_external_fits_its_window_and_is_readable(
    tab: Page, address: str, page: str, request: pytest.FixtureRequest
) -> None:
    tab.goto(f"{address}/{page}.html")
    tab.evaluate("document.fonts.ready")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    size, scheme = request.node.callspec.params["tab"]
    tab.screenshot(path=SCREENSHOTS / f"docs-{page}-{scheme}-{size}.png")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    scrolled = ".md-typeset__scrollwrap, pre, .drawing"  # by themselves
    inside = f"[...document.querySelectorAll('.md-content *')].filter((one) => !one.closest('{scrolled}'))"
    assert tab.evaluate(f"{inside}.every((one) => one.getBoundingClientRect().right <= innerWidth + 1)")
    ground: Any = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 64) == (scheme == "dark")
    tab.evaluate("document.querySelectorAll('.md-header, .md-sidebar, .headerlink').forEach((one) => one.remove())")
    assert tab.evaluate(PALE) == []  # what we wrote; around it the theme lays veils, which that eye takes for grounds


@pytest.mark.parametrize("opened", ["from a server", "from the disk"])
def test_a_search_finds_what_is_asked_for(chromium: Browser, address: str, site: Path, opened: str) -> None:
    tab, asked = chromium.new_page(), list[str]()
    tab.on("request", lambda request: asked.append(request.url))
    start = address if opened == "from a server" else site.as_uri()
    tab.goto(f"{start}/index.html")
    tab.locator("[data-md-component=search-query]").press_sequentially("bucket lock", delay=30)
    expect(tab.locator(".md-search-result__link").first).to_contain_text("Connecting R2", timeout=60_000)
    assert [url for url in asked if not url.startswith((start, "data:", "blob:"))] == []
    tab.close()
