"""Batches of transcodes: worth a task run each, few enough for Prefect, and nothing is left out."""

from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.store.plans import Item
from tasks.transcodes import _batches


def items(sizes: list[int]) -> list[Item]:
    return [
        Item(number, f"v{number}", "u", 1, "compress", "cold", "cold", size, None) for number, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(1, 500_000_000), max_size=60))
def test_every_item_is_in_one_batch_in_its_order(sizes: list[int]) -> None:
    wanted = items(sizes)
    batches = list(_batches(wanted))
    assert [item for batch in batches for item in batch] == wanted
    assert all(batches)
    assert all(sum(item.size_bytes for item in batch) >= 100_000 for batch in batches[:-1])


def test_a_video_of_some_size_is_a_batch_of_its_own() -> None:
    assert [len(batch) for batch in _batches(items([1_000_000] * 33))] == [1] * 33


def test_short_clips_come_in_batches_that_grow_smaller_to_the_end() -> None:
    sizes = [len(batch) for batch in _batches(items([100_000] * 100))]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1], len(sizes)) == (7, 1, 39)


def test_a_hundred_thousand_videos_are_some_hundred_task_runs() -> None:
    assert len(list(_batches(items([5_000_000] * 100_000)))) <= 401
