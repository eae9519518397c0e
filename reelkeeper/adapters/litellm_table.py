"""Read the prices and ends of models from LiteLLM's table, a file of its package, which is not loaded.

A row is named by its vendor's prefix and model, and may have:

    output_cost_per_second, output_cost_per_video_per_second   dollars for a second of video
    output_cost_per_second_SIZE                                the same, of a size: 720p, 1080p, 2k, 4k
    deprecation_date                                           the day on which the vendor ends the model, YYYY-MM-DD
"""

import json
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from reelkeeper.errors import InputRefused
from reelkeeper.model.money import Published, PublishedRate

NAME: Final = "LiteLLM's table"
FILE: Final = "model_prices_and_context_window_backup.json"
_PREFIXES: Final = {"fal": "fal_ai/", "runway": "runwayml/", "openai": ""}  # of vendors' names there
_SIDES: Final = {"2k": "1440p", "4k": "2160p"}
_PER_SECOND: Final = ("output_cost_per_second", "output_cost_per_video_per_second")
_NAMED: Final = f"{_PER_SECOND[0]}_"  # and a resolution

Table = dict[str, Any]


def read(path: Path | None) -> Table | None:
    """Read the table at `path`, or that of the installed package; None: it is not installed. Raises InputRefused."""
    if path is None:
        spec = find_spec("litellm")
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise InputRefused(f"{path} is not LiteLLM's table: {error}") from None
    if not isinstance(found, dict):
        raise InputRefused(f"{path} is not LiteLLM's table: it has no models by name")
    return found


def published(table: Table, provider: str, models: Iterable[str]) -> dict[str, Published]:
    """Return what the table says of a vendor's models; those that it does not have are left out."""
    prefix = _PREFIXES.get(provider)
    rows = {} if prefix is None else {model: table.get(f"{prefix}{model}") for model in models}
    found = {model: _published(row) for model, row in rows.items() if isinstance(row, dict)}
    return {model: says for model, says in found.items() if says.rates or says.ends_on}


def _published(row: dict[str, Any]) -> Published:
    rates = [PublishedRate(Decimal(row[name])) for name in _PER_SECOND if name in row][:1]
    for name, usd in row.items():
        size = name.removeprefix(_NAMED)
        if name.startswith(_NAMED) and (size in _SIDES or size[:-1].isdecimal()):
            rates.append(PublishedRate(Decimal(usd), _SIDES.get(size, size)))
    ends = row.get("deprecation_date")
    return Published(NAME, rates=tuple(rates), ends_on=date.fromisoformat(ends) if isinstance(ends, str) else None)
