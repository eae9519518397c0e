"""Keys that tell requests apart, and a cache that never takes more than it may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.jobs.cache import S3Fifo, key

REQUEST = {"model": "m", "model_version": "1", "prompt": "a fox", "seconds": 5, "seed": 7, "parameters": {"steps": 20}}


@pytest.mark.parametrize("name", sorted(REQUEST))
def test_everything_that_shapes_a_video_is_in_its_key(name: str) -> None:
    assert key(REQUEST, "ana") != key({**REQUEST, name: "other"}, "ana")


def test_the_order_of_names_does_not_matter_and_nothing_runs_together() -> None:
    assert key(REQUEST, "ana") == key(dict(reversed(REQUEST.items())), "ana")
    assert key({"prompt": "ab", "negative": ""}, None) != key({"prompt": "a", "negative": "b"}, None)


def test_an_answer_is_private_unless_shared_on_purpose() -> None:
    assert len({key(REQUEST, "ana"), key(REQUEST, "ben"), key(REQUEST, None)}) == 3


def test_what_json_cannot_say_exactly_has_no_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        key({"strength": float("nan")}, None)


steps = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40), st.booleans()), max_size=300)


@given(steps, st.integers(1, 120), st.sampled_from([0.0, 0.1, 0.5]))
def test_it_never_takes_more_than_its_budget_and_loses_nothing_unsaid(
    asked: list[tuple[int, int, bool]], budget_bytes: int, small_share: float
) -> None:
    cache, there = S3Fifo(budget_bytes, small_share), dict[str, int]()
    for number, size_bytes, removed in asked:
        name = str(number)
        assert cache.hit(name) == (name in there)
        if name not in there:
            there[name] = size_bytes
            for left in cache.add(name, size_bytes):
                del there[left]
        elif removed:
            cache.remove(name)
            del there[name]
        assert set(cache) == set(there)
        assert len(cache) == len(there)
        assert cache.size_bytes == sum(there.values()) <= budget_bytes


def test_a_stream_of_strangers_does_not_drive_out_what_is_asked_for() -> None:
    cache = S3Fifo(1000)
    cache.add("liked", 10)
    cache.hit("liked")
    cache.hit("liked")
    for number in range(500):
        cache.add(f"stranger {number}", 10)
        cache.hit("liked")
    assert "liked" in cache


def test_what_comes_back_soon_after_it_left_is_trusted_at_once() -> None:
    cache = S3Fifo(100, small_share=0.1)
    for name in "abcdefghijk":
        cache.add(name, 10)
    assert "a" not in cache
    cache.add("a", 10)
    for number in range(50):
        cache.add(f"stranger {number}", 10)
    assert "a" in cache


def test_what_is_larger_than_the_budget_does_not_drive_out_the_rest() -> None:
    cache = S3Fifo(100)
    cache.add("small", 10)
    assert cache.add("huge", 101) == ["huge"]
    assert list(cache) == ["small"]


@pytest.mark.parametrize("size_bytes", [0, -1])
def test_an_entry_takes_bytes_and_is_added_once(size_bytes: int) -> None:
    cache = S3Fifo(100)
    cache.add("a", 1)
    with pytest.raises(ValueError, match="in the cache already, or is no entry"):
        cache.add("b", size_bytes)
    with pytest.raises(ValueError, match="in the cache already"):
        cache.add("a", 1)
