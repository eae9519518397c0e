"""Requests are bounded, and equal ones have the same canonical form."""

from typing import Any

import pytest
from pydantic import ValidationError

from reelkeeper.model.requests import GenerationRequest
from reelkeeper.rules.jobs.admission import cache_key


def test_a_request_that_came_as_json_is_the_one_built_in_python() -> None:
    came = GenerationRequest.model_validate_json(
        '{"model": "m", "prompt": "a fox", "duration_seconds": 5, "parameters": {"steps": 20.0}}'
    )
    built = GenerationRequest(model="m", prompt="a fox", duration_seconds=5.0, parameters={"steps": 20})
    assert cache_key(came.canonical(), "ann") == cache_key(built.canonical(), "ann")


def test_whether_it_is_shared_shapes_nothing() -> None:
    assert "shared" not in GenerationRequest(model="m", prompt="x", shared=True).canonical()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": "x" * 10_001},
        {"prompt": "a\0b"},
        {"prompt": "\ud800"},
        {"model": "no spaces"},
        {"model": ""},
        {"width": 63},
        {"width": 1281},
        {"height": 8192},
        {"duration_seconds": 0.1},
        {"duration_seconds": 121},
        {"duration_seconds": float("nan")},
        {"fps": 0},
        {"fps": True},
        {"fps": "24"},
        {"seed": -1},
        {"seed": 2**63},
        {"image_sha256": "ABC"},
        {"parameters": {"x": [1]}},
        {"parameters": {"x": float("inf")}},
        {"parameters": {"x": "y" * 1001}},
        {"parameters": {"x\0": 1}},
        {"parameters": {str(n): n for n in range(33)}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_values_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerationRequest.model_validate({"model": "m", "prompt": "x", **wrong})
