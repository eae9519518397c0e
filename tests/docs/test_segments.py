"""The pages' example of segments is a valid document, and decides as the page says."""

import re

import pytest

from docs.generated import policies
from reelkeeper.operations.core.policy_document import read
from reelkeeper.rules.lifecycle import segments
from tests.docs.conftest import ROOT
from tests.rules.videos import AS_OF, RECIPE, judge, video

PAGE = (ROOT / "docs" / "lifecycle.md").read_text()
EXAMPLE = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "segments:" in block)


@pytest.mark.parametrize(
    ("kind", "segment", "rule"),
    [
        ({"age_days": 4000, "views": 0, "key": "masters/one.mp4", "tag": "draft"}, "masters", "cold_compress"),
        ({"age_days": 4, "views": 99, "tag": "draft"}, "drafts", "past_retention"),
        ({"age_days": 3, "views": 1, "model": "sketch-2", "size_bytes": 50_000_000}, "large", "cold_compress"),
        ({"age_days": 15, "views": 99, "tier": "free", "tag": "trial"}, "trial", "past_retention"),
        ({"age_days": 15, "views": 99, "tier": "pro", "tag": "trial"}, None, "still_watched"),
    ],
)
def test_the_example_decides_as_it_reads(kind: dict[str, object], segment: str | None, rule: str) -> None:
    policies = read(EXAMPLE, "docs/lifecycle.md")
    verdict = judge(video(**kind), policies.lifecycle, policies.tiers, AS_OF, RECIPE)  # type: ignore[arg-type]  # columns
    assert (segments.of_verdict(verdict), verdict.rule) == (segment, rule)


def test_every_field_of_a_segment_is_in_the_table() -> None:
    written = policies.segments()
    assert not [name for name in segments.Segment.model_fields if f"`{name}`" not in written]
    assert written in PAGE
