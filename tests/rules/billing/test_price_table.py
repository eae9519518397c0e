"""Forty requests of the models in docs/examples, priced by hand from the vendors' price lists."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from reelkeeper.adapters import litellm_table
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.billing.published import check
from reelkeeper.operations.core.policy_document import read, write
from reelkeeper.rules.billing.catalogue import clip_of
from reelkeeper.rules.billing.quote import JobSpec, PriceBook, quote

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs/examples/models.yaml"
LITELLM = f"lib/python3*/site-packages/litellm/{litellm_table.FILE}"
BOOK: Final[PriceBook] = read(EXAMPLES.read_text(), EXAMPLES.name).book
IMAGE = "0" * 64
# model, width, height, seconds, sound, image; what its vendor takes; the same and half of it: dollars, by hand
TABLE: Final = [
    ("fal/veo-3.1", 1280, 720, 8, True, False, "3.20", "4.80"),  # 8 x 0.40
    ("fal/veo-3.1", 1280, 720, 8, False, False, "1.60", "2.40"),  # 8 x 0.20
    ("fal/veo-3.1", 1080, 1920, 6, None, False, "2.40", "3.60"),  # 6 x 0.40
    ("fal/veo-3.1", 3840, 2160, 4, True, False, "2.40", "3.60"),  # 4 x 0.60
    ("fal/veo-3.1", 3840, 2160, 8, False, False, "3.20", "4.80"),  # 8 x 0.40
    ("fal/veo-3.1-fast", 1920, 1080, 8, True, False, "1.20", "1.80"),  # 8 x 0.15
    ("fal/veo-3.1-fast", 1280, 720, 4, False, False, "0.40", "0.60"),  # 4 x 0.10
    ("fal/veo-3.1-fast", 2160, 3840, 6, True, False, "2.10", "3.15"),  # 6 x 0.35
    ("fal/kling-4", 1280, 720, 5, None, False, "0.785", "1.1775"),  # 5 x 0.157
    ("fal/kling-4", 1920, 1080, 30, None, False, "7.05", "10.575"),  # 30 x 0.235
    ("fal/kling-o3-4k", 3840, 2160, 3, True, True, "1.26", "1.89"),  # 3 x 0.42
    ("fal/kling-2.6-pro", 1920, 1080, 10, False, True, "0.70", "1.05"),  # 10 x 0.07
    ("fal/kling-2.6-pro", 1920, 1080, 5, None, True, "0.70", "1.05"),  # 5 x 0.14
    ("fal/seedance-2.0", 854, 480, 5, True, False, "0.673", "1.0095"),  # 5 x 0.1346
    ("fal/seedance-2.0", 1280, 720, 8, False, False, "2.4272", "3.6408"),  # 8 x 0.3034
    ("fal/seedance-2.0", 1920, 1080, 10, None, False, "6.82", "10.23"),  # 10 x 0.682
    ("fal/seedance-2.0", 3840, 2160, 4, None, False, "6.2208", "9.3312"),  # 4 x 1.5552
    ("fal/seedance-2.5", 1280, 720, 7, None, False, "3.311", "4.9665"),  # 7 x 0.473
    ("fal/hailuo-3", 1366, 768, 6, None, False, "0.36", "0.54"),  # 6 x 0.06
    ("fal/hailuo-3", 2560, 1440, 10, None, False, "1.30", "1.95"),  # 10 x 0.13
    ("fal/ltx-2-pro", 3840, 2160, 10, None, False, "2.40", "3.60"),  # 10 x 0.24
    ("fal/ltx-2-fast", 1920, 1080, 6, None, False, "0.24", "0.36"),  # 6 x 0.04
    ("fal/ray-3.2", 960, 540, 5, None, False, "0.50", "0.75"),  # a clip
    ("fal/ray-3.2", 1920, 1080, 5, None, False, "2.00", "3.00"),  # a clip
    ("runway/gen-4.5", 1280, 720, 10, None, False, "1.20", "1.80"),  # 10 x 0.12
    ("runway/gen-4-turbo", 1280, 720, 5, None, True, "0.25", "0.375"),  # 5 x 0.05
    ("runway/seedance-2.0", 3840, 2160, 5, None, False, "7.50", "11.25"),  # 5 x 1.50
    ("runway/seedance-2.0-mini", 1280, 720, 15, None, False, "2.40", "3.60"),  # 15 x 0.16
    ("runway/seedance-2.5", 1280, 720, 2, None, False, "0.80", "1.20"),  # 2 x 0.30, but at least 0.80
    ("runway/seedance-2.5", 1920, 1080, 6, None, False, "4.08", "6.12"),  # 6 x 0.68
    ("runway/hailuo-3", 2560, 1440, 6, None, True, "0.90", "1.35"),  # 6 x 0.15
    ("google/veo-3.1", 1280, 720, 6, None, False, "2.40", "3.60"),  # 6 x 0.40
    ("google/veo-3.1-fast", 1920, 1080, 8, None, False, "0.96", "1.44"),  # 8 x 0.12
    ("google/veo-3.1-lite", 1080, 1920, 4, None, False, "0.32", "0.48"),  # 4 x 0.08
    ("ark/seedance-2.0", 1280, 720, 5, None, False, "0.71", "1.065"),  # 5 x 0.142
    ("alibaba/wan-3.0", 1920, 1080, 30, None, False, "6.00", "9.00"),  # 30 x 0.20
    ("alibaba/wan-3.0-beijing", 832, 480, 2.5, None, False, "0.10325", "0.154875"),  # 2.5 x 0.0413
    ("minimax/hailuo-3", 1366, 768, 10, None, True, "0.80", "1.20"),  # 10 x 0.08
    ("xai/grok-imagine-1.5", 1280, 720, 6, None, True, "0.85", "1.275"),  # 6 x 0.14 and 0.01 for the image
    ("xai/grok-imagine-1.5-lite", 1920, 1080, 8, None, False, "1.12", "1.68"),  # 8 x 0.14
]


@pytest.mark.parametrize(("model", "width", "height", "seconds", "audio", "image", "cost", "sold"), TABLE)
def test_a_request_of_the_price_table_is_quoted_exactly(  # one argument a column
    model: str, width: int, height: int, seconds: float, audio: bool | None, image: bool, cost: str, sold: str
) -> None:
    request = GenerationRequest(
        model=model,
        prompt="a fox",
        width=width,
        height=height,
        duration_seconds=float(seconds),
        audio=audio,
        image_sha256=IMAGE if image else None,
    )
    BOOK.require_sold(request)
    found = quote(JobSpec(model=model, clip=clip_of(request)), BOOK)
    assert (Decimal(found.cost_microusd), Decimal(found.total_microusd)) == (
        Decimal(cost) * 10**6,
        Decimal(sold) * 10**6,
    )


def test_the_table_has_forty_rows_and_the_examples_come_through_a_document_as_they_are() -> None:
    assert len({row[:6] for row in TABLE}) == 40
    assert read(write(read(EXAMPLES.read_text(), "")), "").book == BOOK


@pytest.mark.soak  # which makes .venv-litellm
def test_the_examples_prices_are_those_of_litellms_table_where_it_has_them_and_no_model_has_ended() -> None:
    table = litellm_table.read(next((ROOT / ".venv-litellm").glob(LITELLM)))
    found = check(BOOK, {}, table, None, datetime.now(UTC).date())
    assert [item for item in found.compared if item.differs or item.warnings] == []
    held = {item.model for item in found.compared}
    assert {entry.model for entry in BOOK.models if entry.provider == "openai"} <= held
