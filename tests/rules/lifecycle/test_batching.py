"""Batches of transcodes: large enough for a task run, few enough for Prefect, and complete."""

from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.lifecycle.transcode import first_batch


def batches(sizes: list[int]) -> list[list[int]]:
    """Take one batch after the other, as one worker alone does."""
    left, taken = list(sizes), []
    while left:
        count = first_batch(left, sum(left), sum(sizes))
        taken.append(left[:count])
        left = left[count:]
    return taken


@given(st.lists(st.integers(1, 500_000_000), max_size=60))
def test_every_video_is_in_one_batch_in_its_order(sizes: list[int]) -> None:
    taken = batches(sizes)
    assert [size for batch in taken for size in batch] == sizes
    assert all(taken)
    assert all(sum(batch) >= 100_000 for batch in taken[:-1])


def test_a_video_of_some_size_is_a_batch_of_its_own() -> None:
    assert [len(batch) for batch in batches([1_000_000] * 33)] == [1] * 33


def test_short_clips_come_in_batches_that_grow_smaller_to_the_end() -> None:
    counts = [len(batch) for batch in batches([100_000] * 100)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1], len(counts)) == (7, 1, 39)


def test_a_hundred_thousand_videos_are_some_hundred_task_runs() -> None:
    assert len(batches([5_000_000] * 100_000)) <= 401
