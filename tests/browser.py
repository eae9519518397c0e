"""Provide a real Chromium, its windows, and a check for text with too little contrast."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

SCREENSHOTS = Path(os.environ.get("SCREENSHOTS") or Path(__file__).parents[1] / "build" / "screenshots")
SIZES = {"wide": (1280, 900), "phone": (360, 780)}

# Gives what is read at less than WCAG's contrast: 4.5, or 3 for large type. All grounds are opaque.
PALE = """
() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const decoded = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb(text).slice(0, 3).map((v) => decoded(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((rgb(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || ["STYLE", "SCRIPT"].includes(one.tagName)) continue;
    const style = getComputedStyle(one), size = parseFloat(style.fontSize);
    const [low, high] = [light(style.color), light(ground(one))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push([walk.currentNode.textContent.trim(), ratio]);
  }
  return found;
}
"""


@pytest.fixture(scope="module")  # as long as it lasts, its event loop runs in this thread, and no other can
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Where it is absent this fails in CI, and elsewhere skips."""
    place = shutil.which("chromium")
    if place is None:
        reason = "no chromium on PATH; apt-get install chromium, as .ci/run does"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])  # a page of our own, as root
        yield browser
        browser.close()
