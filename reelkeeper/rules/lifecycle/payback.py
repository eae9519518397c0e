"""Does an encode pay for itself? CPU now against storage saved in what remains of the video's life. Pure."""

from decimal import Decimal
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model import Media, Refusal
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, GB, MILLION, STANDARD

# CPU seconds for each million pixels encoded and compared. Measured on one core of an EPYC with AVX2, 270p to 720p:
# SVT-AV1 4.2 preset 6 took 0.075-0.16, two-pass libvpx-vp9 at cpu-used 4 2.4 times that, VMAF 0.047-0.057.
_ENCODE_CPU_SECONDS: Final = {"av1": Decimal("0.10"), "vp9": Decimal("0.24")}
_COMPARE_CPU_SECONDS: Final = Decimal("0.05")
_READS, _WRITES = 2, 1  # download, read back; put


class Payback(BaseModel):
    """What CPU costs, and what an encode may be expected to save before it is tried. Without a price it is off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_usd_per_hour: Decimal | None = Field(None, ge=0, description="Price of a CPU core for an hour; unset: no gate")
    expected_size_percent: int = Field(50, gt=0, lt=100, description="Size of a result, of its source")
    expected_probes: Decimal = Field(Decimal(2), ge=1, le=8, description="Encodes until the CRF is found")
    horizon_days: int = Field(365, ge=1, description="Life counted for a video without an end")


def pays(media: Media, codec: str, payback: Payback, remaining_days: int | None, mark: str = "") -> Refusal | None:
    """Refuse an encode that would cost more than it saves, with the arithmetic; None where it pays or no price is set.

    `remaining_days` is what is left of the video's life, None for ever: then the horizon counts.
    """
    if payback.cpu_usd_per_hour is None:
        return None
    days = payback.horizon_days if remaining_days is None else max(0, min(remaining_days, payback.horizon_days))
    megapixels = Decimal(media.width * media.height * media.frames) / 10**6
    cpu_seconds = megapixels * (_ENCODE_CPU_SECONDS[codec] + _COMPARE_CPU_SECONDS) * payback.expected_probes
    requests = (_WRITES * STANDARD.class_a_usd_per_million + _READS * STANDARD.class_b_usd_per_million) / MILLION
    cost = cpu_seconds / 3600 * payback.cpu_usd_per_hour + requests
    saved_bytes = media.size_bytes * (100 - payback.expected_size_percent) // 100
    gain = saved_bytes * STANDARD.storage_usd_per_gb_month * days / DAYS_A_MONTH / GB
    if gain >= cost:
        return None
    reason = (
        f"it would cost {cost:.6f} USD and save {gain:.6f} USD: {megapixels:.0f} megapixels, encoded and compared "
        f"{payback.expected_probes} times, take {cpu_seconds:.0f} CPU s at {payback.cpu_usd_per_hour} USD an hour, "
        f"requests {requests:.6f} USD; {saved_bytes / 10**6:.2f} MB less for {days} days at "
        f"{STANDARD.storage_usd_per_gb_month} USD a GB-month"
    )
    return Refusal("payback", reason, mark)
