"""Fixtures of tests over vendors: a double in its vendor's format, and a generator that has it make videos."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reelkeeper.adapters.providers import RemoteGenerator
from tests.adapters.providers.formats import FORMATS, Format
from tests.doubles.vendor import Vendor

NAMES = ["fal", "replicate", "runway", "openrouter", "openai", "comfyui"]


@pytest.fixture(params=NAMES)
def format_(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture
def vendor(format_: Format, tiny_clip: Path) -> Iterator[Vendor]:
    with format_.double(tiny_clip.read_bytes()).serving() as serving:
        yield serving


@pytest.fixture
def generator(format_: Format, vendor: Vendor) -> RemoteGenerator:
    how = {"poll_seconds": 0.02, "most_bytes": 1_000_000, "most_silent_seconds": 0.1}
    return RemoteGenerator(format_.connect(vendor), model=format_.model, **how)  # type: ignore[arg-type]  # as it takes them
