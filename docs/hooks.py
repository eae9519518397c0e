"""Fills in what the pages take from the code, while they are built: nothing of it can fall behind.

A page says `<!-- generated: NAME -->` on a line of its own; NAME is a key of `WRITERS`, with an argument after it for
some. `<!-- drawing: NAME -->` puts a picture of docs/drawings there, in the page's own colours.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mkdocs.exceptions import PluginError

from docs.generated import api, commands, errors, flows, guards, personal, policies, settings, webhooks

WRITERS: Final[dict[str, Callable[[str], str]]] = {
    "settings": settings.table,
    "policies": policies.sections,
    "catalogue": policies.catalogue,
    "segments": policies.segments,
    "flow": flows.facts,
    "schedule": flows.schedule,
    "commands": commands.sections,
    "api": api.sections,
    "routes": api.overview,
    "problems": api.problems,
    "schemas": api.schemas,
    "errors": errors.table,
    "error-tree": errors.tree,
    "guards": guards.table,
    "personal-data": personal.table,
    "webhook-events": webhooks.table,
}
_MARKER: Final = re.compile(r"^<!-- (generated|drawing): ([\w-]+) ?([\w-]*) -->$", re.MULTILINE)
_OWN_STYLE: Final = re.compile(r"<style>.*?</style>\n", re.DOTALL)
_DRAWINGS: Final = Path(__file__).parent / "drawings"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put what was generated in place of each marker. A name that is not known stops the build."""
    return _MARKER.sub(_written, markdown)


def _written(marker: re.Match[str]) -> str:
    kind, name, argument = marker.groups()
    if kind == "drawing":
        drawn = (_DRAWINGS / f"{name}.svg").read_text()
        drawn = _OWN_STYLE.sub("", drawn)  # which the README needs, where the page's own sheet is not
        return f'<figure class="drawing">\n{drawn.strip()}\n</figure>'
    if name not in WRITERS:
        raise PluginError(f"nothing generates {name!r}: docs/hooks.py has {', '.join(WRITERS)}")
    return WRITERS[name](argument)
