"""Process many items at once, so that one that fails stops no other."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from reelkeeper.errors import (
    DiskFull,
    Frozen,
    IdentityMismatch,
    LeaseLost,
    SchemaError,
    StorageError,
    StoreBehind,
    ToolMissing,
    Unavailable,
)
from reelkeeper.store import OperationalError

Item = TypeVar("Item")
# Errors of this machine: it ends its part and gives back what it holds, since another machine can do the work.
UNFIT: Final = (DiskFull, ToolMissing, SchemaError, IdentityMismatch)
# Errors that are not an item's fault: nothing more is tried.
# guard machines.no_fault: a machine without ffmpeg fails every clip that it takes, in a second each
ENDS_ALL: Final = (Frozen, StoreBehind, LeaseLost, *UNFIT, Unavailable, OperationalError)


def each_apart(
    items: Sequence[Item],
    act: Callable[[Sequence[Item]], object],
    failed: Callable[[Sequence[Item], Exception], object],
) -> None:
    """Call `act` with all of `items`; where that raises, with each half, down to the failing items.

    `act` must be safe to repeat, and change nothing where it raises, or be able to finish later. `failed` is called
    with each failing item, or with all where the bucket itself fails. Raises Frozen, StoreBehind, LeaseLost, and
    errors of an unreachable store or an unfit machine.
    """
    try:
        act(items)
    except ENDS_ALL:
        raise
    except Exception as error:  # noqa: BLE001  one item that fails must not stop the others
        if len(items) == 1 or isinstance(error, StorageError):
            failed(items, error)
            return
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            each_apart(half, act, failed)
