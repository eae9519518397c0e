"""Exit codes, from the errors that carry them."""

import inspect
from collections.abc import Iterator
from typing import Final

from docs.generated import tables
from reelkeeper import errors
from reelkeeper.errors import ReelkeeperError

_MEANS: Final = {  # where the first error of a code says too little
    1: "Failed: storage, media, or something unforeseen.",
    2: "A setting or an argument is missing or wrong.",
    4: "Another run is at work.",
    7: "The store has another schema: `reelkeeper db upgrade`, or a newer Reelkeeper.",
    9: "Refused, and nothing was changed.",
    10: "A flow has not succeeded in time, or messages are not delivered: `reelkeeper watchdog`, `status --check`.",
}


def kinds() -> Iterator[type[ReelkeeperError]]:
    """Yield every kind of error, the root first."""
    waiting = [ReelkeeperError]
    while waiting:
        item = waiting.pop(0)
        yield item
        waiting += item.__subclasses__()


def codes() -> dict[int, list[type[ReelkeeperError]]]:
    """Return the kinds of error by exit code."""
    found: dict[int, list[type[ReelkeeperError]]] = {}
    for kind in kinds():
        found.setdefault(kind.exit_code, []).append(kind)
    return dict(sorted(found.items()))


def table(_argument: str = "") -> str:
    """Return each exit code with the errors that end a command with it."""
    rows = [("0", "-", "Done.")]
    for code, found in codes().items():
        said = _MEANS.get(code) or inspect.cleandoc(found[0].__doc__ or "").splitlines()[0]
        rows.append((str(code), ", ".join(f"`{item.__name__}`" for item in found), said))
    return tables.table(("code", "errors", "in general"), rows)


def tree(_argument: str = "") -> str:
    """Return the tree that the errors form, as it is drawn in the code."""
    drawn = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2].strip()
    return f"```text\n{drawn}\n```"
