"""Run a search with the shipped recipe at any cost, as the tests' clips are too small to pay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from reelkeeper.model import CrfSearch, Refusal, Transcode
from reelkeeper.operations.lifecycle.transcode import Permit, Terms, search
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.lifecycle.worth import Payback

AT_ANY_PRICE: Final = Recipe(payback=Payback(cpu_usd_per_hour=None))
_ACCEPTANCE: Final = Acceptance()


def shrink(
    source: Path,
    scratch: Path,
    recipe: Recipe = AT_ANY_PRICE,
    acceptance: Acceptance = _ACCEPTANCE,
    note: Callable[[CrfSearch], None] | None = None,
    permit: Permit | None = None,
    **known: Any,  # noqa: ANN401  further terms
) -> Transcode | Refusal:
    """Search the smallest result, and note the search."""
    found = search(source, scratch, Terms(recipe, acceptance, **known), permit or Permit())
    if note is not None and found.search is not None:
        note(found.search)
    return found.result
