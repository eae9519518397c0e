"""Run `shrink` with the shipped recipe at any cost, as the tests' clips are too small to pay."""

from pathlib import Path
from typing import Any, Final

from reelkeeper.model import Refusal, Transcode
from reelkeeper.operations.lifecycle import transcode
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.lifecycle.worth import Payback

AT_ANY_PRICE: Final = Recipe(payback=Payback(cpu_usd_per_hour=None))
_ACCEPTANCE: Final = Acceptance()


def shrink(
    source: Path,
    scratch: Path,
    recipe: Recipe = AT_ANY_PRICE,
    acceptance: Acceptance = _ACCEPTANCE,
    **known: Any,  # noqa: ANN401  fields of Circumstances
) -> Transcode | Refusal:
    """Search the smallest result, as `operations` does."""
    return transcode.shrink(source, scratch, recipe, acceptance, transcode.Circumstances(**known))
