"""`shrink` by the recipe that is shipped, where a test asks for no other."""

from pathlib import Path
from typing import Any, Final

from reelkeeper.model import Refusal, Transcode
from reelkeeper.operations.lifecycle import transcode
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe

_RECIPE: Final = Recipe()
_ACCEPTANCE: Final = Acceptance()


def shrink(
    source: Path,
    scratch: Path,
    recipe: Recipe = _RECIPE,
    acceptance: Acceptance = _ACCEPTANCE,
    **options: Any,  # noqa: ANN401  those of `shrink`
) -> Transcode | Refusal:
    """Search the smallest result, as `operations` does."""
    return transcode.shrink(source, scratch, recipe, acceptance, **options)
