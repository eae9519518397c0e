"""Keys that tell requests apart."""

import pytest

from reelkeeper.rules.jobs.cache import key

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
