"""Do something with many items at once, and let one that breaks it stop no other."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from reelkeeper.errors import DiskFull, Frozen, LeaseLost, StorageError, Unavailable
from reelkeeper.store import OperationalError

Item = TypeVar("Item")
# What is no fault of an item's: nothing more is tried.
ENDS_ALL: Final = (Frozen, LeaseLost, DiskFull, Unavailable, OperationalError)


def each_apart(
    items: Sequence[Item],
    act: Callable[[Sequence[Item]], object],
    failed: Callable[[Sequence[Item], Exception], object],
) -> None:
    """Do `act` with all of `items`; where that raises, with each half, down to the items that break it.

    `act` is safe to repeat, and changes nothing where it raises, or finishes later what it has begun. `failed` hears of
    each item that breaks it; of all at once where the bucket itself fails. Raises Frozen, LeaseLost, and what says that
    the store or a disk is away or full.
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
