"""`python -m docs.generated.pages`: write into the pages of docs/ what they take from the code.

A page says `<!-- generated: NAME -->` on a line of its own; NAME is a key of `WRITERS`, with an argument after it for
some. What stands from there to `<!-- end -->` is replaced, so the pages are whole wherever they are read.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from docs.generated import api, commands, errors, flows, guards, personal, policies, settings, webhooks

DOCS: Final = Path(__file__).parents[1]
_UNITS: Final = DOCS.parent / "deployments" / "systemd"
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
    "unit": lambda name: f"```ini\n{(_UNITS / name).read_text().strip()}\n```",
    "webhook-events": webhooks.table,
}
_PART: Final = re.compile(r"^(<!-- generated: ([\w-]+) ?([\w.-]*) -->)\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


def filled(page: str) -> str:
    """Return a page with its generated parts as they should be. Raises KeyError for a name that is not known."""
    return _PART.sub(lambda part: f"{part[1]}\n\n{WRITERS[part[2]](part[3]).strip()}\n\n<!-- end -->", page)


def by_hand(page: str) -> str:
    """Return a page without its generated parts."""
    return _PART.sub("", page)


def main() -> None:
    """Write each page that is not as it should be."""
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text()
        if (whole := filled(page)) != page:
            path.write_text(whole)
            sys.stdout.write(f"written: {path.relative_to(DOCS.parent)}\n")


if __name__ == "__main__":
    main()
