"""The pages hold what they take from the code, as it is."""

import re

import pytest

from docs.generated.pages import DOCS, WRITERS, by_hand, filled

PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in DOCS.rglob("*.md")}


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "<!-- generated: " in text])
def test_a_pages_generated_parts_are_as_the_code_says(page: str) -> None:
    assert filled(PAGES[page]) == PAGES[page], "run `make pages`"


def test_every_generated_part_ends_and_stands_in_a_page() -> None:
    begun = [name for text in PAGES.values() for name in re.findall(r"^<!-- generated: ([\w-]+)", text, re.MULTILINE)]
    assert {*begun} == WRITERS.keys()
    assert not [page for page, text in PAGES.items() if "<!-- end -->" in by_hand(text) or "<!-- gen" in by_hand(text)]


def test_a_part_that_fell_behind_is_replaced_and_the_rest_stays() -> None:
    page = "# One\n\n<!-- generated: webhook-events -->\nold\n<!-- end -->\n\nTwo `a`.\n"
    assert "| `job.ended` |" in filled(page)
    assert "old" not in filled(page)
    assert by_hand(filled(page)) == by_hand(page)
    assert {"# One", "Two `a`."} <= {*by_hand(page).splitlines()}
