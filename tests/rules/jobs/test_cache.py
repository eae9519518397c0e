"""Cache keys that distinguish requests."""

import pytest

from reelkeeper.rules.jobs.admission import cache_key

REQUEST = {"model": "m", "model_version": "1", "prompt": "a fox", "seconds": 5, "seed": 7, "parameters": {"steps": 20}}


@pytest.mark.parametrize("name", sorted(REQUEST))
def test_everything_that_shapes_a_video_is_in_its_key(name: str) -> None:
    assert cache_key(REQUEST, "ana") != cache_key({**REQUEST, name: "other"}, "ana")


def test_the_order_of_names_does_not_matter_and_nothing_runs_together() -> None:
    assert cache_key(REQUEST, "ana") == cache_key(dict(reversed(REQUEST.items())), "ana")
    assert cache_key({"prompt": "ab", "negative": ""}, None) != cache_key({"prompt": "a", "negative": "b"}, None)


def test_an_answer_is_private_unless_shared_on_purpose() -> None:
    assert len({cache_key(REQUEST, "ana"), cache_key(REQUEST, "ben"), cache_key(REQUEST, None)}) == 3


def test_a_value_that_json_cannot_represent_exactly_has_no_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        cache_key({"strength": float("nan")}, None)
