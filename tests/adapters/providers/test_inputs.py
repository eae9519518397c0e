"""The request sent has the quoted size and length, and our mark."""

import pytest

from reelkeeper.adapters.providers.inputs import key_of, marked_url, seconds_of, seed_of, with_parameters
from reelkeeper.errors import GenerationRefused

SHAPE = {"duration": "5", "resolution": "720p"}


def test_a_parameter_adds_or_removes_a_field() -> None:
    request = {"parameters": {"motion": 3, "resolution": None, "duration": "5"}}
    assert with_parameters(SHAPE, request) == {"duration": "5", "motion": 3}
    assert with_parameters(SHAPE, {}) == SHAPE


def test_a_parameter_cannot_ask_for_more_than_was_quoted() -> None:
    with pytest.raises(GenerationRefused, match="'10'"):
        with_parameters(SHAPE, {"parameters": {"duration": "10"}})


@pytest.mark.parametrize("url", ["https://service.example/hook", "https://service.example/hook?of=us"])
def test_a_key_is_read_from_the_address_that_carries_it(url: str) -> None:
    assert key_of(marked_url(url, "j1-1&of=them")) == "j1-1&of=them"
    assert key_of(url) is None
    assert key_of(None) is None


def test_seeds_differ_and_fit_into_31_bits() -> None:
    seeds = {seed_of(f"j{number}-1") for number in range(1_000)}
    assert len(seeds) == 1_000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_whole_number_of_seconds_is_written_as_one() -> None:
    assert [str(seconds_of({"duration_seconds": seconds})) for seconds in (5.0, 5.5)] == ["5", "5.5"]
