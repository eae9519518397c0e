"""How many videos a worker takes at once, of those that are left of a plan."""

from collections.abc import Sequence
from typing import Final

# Of source in a batch: over a second of CPU, beside which a task run's 25 to 50 ms are little; and so much of it that
# they are next to nothing.
LEAST_BYTES: Final = 100_000
ENOUGH_BYTES: Final = 1_000_000
SHARES: Final = 16  # a batch takes at most this part of what is left
MOST_BATCHES: Final = 400  # Prefect's server loses records past some hundreds of task runs at once


def first_batch(sizes: Sequence[int], left_bytes: int, all_bytes: int) -> int:
    """Say how many of the next videos, of these sizes, make a batch that is worth a task run.

    Ever fewer to the end, so that all workers end together. `left_bytes` of the plan's `all_bytes` are not begun.
    """
    least = max(LEAST_BYTES, all_bytes // MOST_BATCHES)
    enough = min(max(left_bytes // SHARES, least), max(ENOUGH_BYTES, least))
    taken = 0
    for count, size_bytes in enumerate(sizes, 1):
        taken += size_bytes
        if taken >= enough:
            return count
    return len(sizes)
