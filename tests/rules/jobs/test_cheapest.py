"""The cheapest clip of a vendor is one that the catalogue sells, at the vendor's own price."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.cheapest import cheapest

ROOT = Path(__file__).parents[3]
SHIPPED = PriceBook.model_validate(yaml.safe_load((ROOT / "docs/examples/models.yaml").read_text())["book"])


@pytest.mark.parametrize(
    ("provider", "model", "side", "seconds", "cost"),
    [
        ("fal", "minimax/h3/text-to-video", 480, 4, 200_000),
        ("runway", "gen4.5", 720, 2, 240_000),
        ("openai", "xai/grok-imagine-video-1.5-lite", 480, 4, 80_000),
    ],
)
def test_the_cheapest_clip_of_the_example_catalogue(
    provider: str, model: str, side: int, seconds: int, cost: int
) -> None:
    clip = cheapest(SHIPPED, provider, is_default=False)
    assert clip
    assert (clip.vendor_model, clip.cost_microusd, clip.gpu_second_usd) == (model, cost, None)
    assert (clip.request["height"], clip.request["duration_seconds"]) == (side, seconds)


def test_models_without_a_provider_are_of_the_default_and_a_flat_price_is_none_of_a_vendor() -> None:
    gpu = {
        "unit": "gpu_second",
        "rates": [{"usd": "0.001", "gpu_seconds": "50"}],
        "source": "s",
        "read_on": "2026-11-29",
    }
    upright = {"seconds": [9, 3], "aspects": ["9:16"], "resolutions": ["720p", "1080p"], "audio": "choice"}
    entries = [{"model": "flat", "price": {"base_usd": "0.02"}}, {"model": "own", "price": gpu, "limits": upright}]
    book = PriceBook.model_validate({"models": entries})
    clip = cheapest(book, "comfyui", is_default=True)
    assert clip
    assert (clip.model, clip.cost_microusd, Decimal(clip.gpu_second_usd or 0)) == ("own", 150_000, Decimal("0.001"))
    assert (clip.request["width"], clip.request["height"], clip.request["duration_seconds"]) == (720, 1280, 3)
    assert cheapest(book, "comfyui", is_default=False) is None
