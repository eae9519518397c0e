"""Define the models that are sold: their providers, what each can make, and its vendor's prices. Pure.

Prices are exact: for every unit of billing, the quote is computed from the requested clip, and is never below the
vendor's price. Where two rates fit, the higher one is used.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from math import ceil
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from reelkeeper.model.requests import GenerationRequest

_MEGA: Final = 10**6
_SAME_ASPECT: Final = 0.01  # every vendor treats 854x480 as 16:9
_MAX_LISTED: Final = 100
Usd = Annotated[Decimal, Field(ge=0, le=10_000, decimal_places=9)]
Percent = Annotated[Decimal, Field(ge=0, le=10_000, decimal_places=4)]
Seconds = Annotated[Decimal, Field(gt=0, le=3600, decimal_places=3)]
Resolution = Annotated[str, StringConstraints(pattern=r"^\d{2,4}p$")]
Aspect = Annotated[str, StringConstraints(pattern=r"^[1-9]\d?:[1-9]\d?$")]
Choice = Literal["never", "choice", "always"]
ProviderName = Literal["fal", "replicate", "runway", "openrouter", "openai", "comfyui", "http", "local"]


class Clip(NamedTuple):
    """The properties of a video that decide its price; `audio` is None where the request leaves it open."""

    width: int = 1280
    height: int = 720
    seconds: Decimal = Decimal(5)
    audio: bool | None = None
    has_image: bool = False

    @property
    def resolution(self) -> str:
        """The shorter side in pixels, as vendors name the resolution."""
        return f"{min(self.width, self.height)}p"


def clip_of(request: GenerationRequest) -> Clip:
    """Extract from a request the properties that decide its price."""
    seconds = Decimal(str(request.duration_seconds))
    return Clip(request.width, request.height, seconds, request.audio, request.image_sha256 is not None)


class Unit(StrEnum):
    """The unit that a vendor bills by."""

    SECOND = "second"  # of the video
    CLIP = "clip"
    MEGAPIXEL_SECOND = "megapixel_second"  # a million pixels of a frame, for a second of the video
    GPU_SECOND = "gpu_second"


class Rate(BaseModel):
    """The price of one unit, for all clips or for some."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolution: Resolution | None = Field(
        None, description="Resolution (shorter side) that the rate applies to; unset: any"
    )
    audio: bool | None = Field(
        None, description="true: the rate applies to clips with sound; false: to clips without; unset: to both"
    )
    usd: Usd = Field(description="Vendor's price per unit, in dollars")
    sold_usd: Usd | None = Field(
        None, description="User's price per unit, in dollars; unset: the vendor's price plus the margin"
    )
    gpu_seconds: Decimal | None = Field(
        None,
        gt=0,
        le=100_000,
        decimal_places=6,
        description="GPU-seconds needed per second of video, for the unit gpu_second",
    )

    @model_validator(mode="after")
    def _covers_its_cost(self) -> Self:
        # guard prices.rate_above_cost: each second of a model is sold below its vendor's price
        if self.sold_usd is not None and self.sold_usd < self.usd:
            raise ValueError(f"sold for {self.sold_usd} USD, and the vendor takes {self.usd}: raise sold_usd")
        return self

    def fits(self, clip: Clip) -> bool:
        """Check whether such a clip may be billed at this rate."""
        return self.resolution in (None, clip.resolution) and (
            None in (self.audio, clip.audio) or self.audio == clip.audio
        )


class VendorPrice(BaseModel):
    """A vendor's price for a clip, and the price that users pay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit = Field(description="The vendor's billing unit")
    rates: tuple[Rate, ...] = Field(min_length=1, max_length=_MAX_LISTED, description="Prices per unit")
    minimum_usd: Usd = Field(Decimal(0), description="Vendor's minimum charge per clip, in dollars")
    image_usd: Usd = Field(Decimal(0), description="Surcharge for an input image, in dollars")
    margin_percent: Percent | None = Field(
        None, description="Margin of this model, in percent; unset: the price book's margin"
    )
    source: str = Field(min_length=1, max_length=500, description="Where the price was published")
    read_on: date = Field(description="Date on which the price was read there")

    @model_validator(mode="after")
    def _rates_say_what_they_are(self) -> Self:
        kinds = [(rate.resolution, rate.audio) for rate in self.rates]
        if len(set(kinds)) < len(kinds):
            raise ValueError("two rates are for the same resolution and audio")
        if any((rate.gpu_seconds is None) == (self.unit is Unit.GPU_SECOND) for rate in self.rates):
            raise ValueError("gpu_seconds belongs to each rate of the unit gpu_second, and to no other")
        return self

    def amounts(self, clip: Clip, margin_percent: Decimal) -> tuple[Decimal, Decimal] | None:
        """Return the vendor's price and the user's price of a clip, in dollars; None: no rate fits such a clip."""
        fitting = [(self._units(clip, rate), rate) for rate in self.rates if rate.fits(clip)]
        if not fitting:
            return None
        more = 1 + (margin_percent if self.margin_percent is None else self.margin_percent) / 100
        image = self.image_usd if clip.has_image else Decimal(0)
        cost = max(units * rate.usd for units, rate in fitting)
        price = max(units * (rate.usd * more if rate.sold_usd is None else rate.sold_usd) for units, rate in fitting)
        return max(cost, self.minimum_usd) + image, max(price, self.minimum_usd * more) + image * more

    def _units(self, clip: Clip, rate: Rate) -> Decimal:
        match self.unit:
            case Unit.SECOND:
                return clip.seconds
            case Unit.CLIP:
                return Decimal(1)
            case Unit.MEGAPIXEL_SECOND:
                return clip.seconds * clip.width * clip.height / _MEGA
        return clip.seconds * (rate.gpu_seconds or 0)


class ModelLimits(BaseModel):
    """Limits of a model. An empty list limits nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: tuple[Seconds, ...] = Field((), max_length=_MAX_LISTED, description="Supported clip lengths, in seconds")
    most_seconds: Seconds | None = Field(None, description="Maximum clip length, in seconds; unset: no limit")
    resolutions: tuple[Resolution, ...] = Field(
        (), max_length=_MAX_LISTED, description="Supported resolutions (shorter side), such as 720p"
    )
    aspects: tuple[Aspect, ...] = Field(
        (), max_length=_MAX_LISTED, description="Supported aspect ratios (width:height), such as 16:9"
    )
    audio: Choice = Field(
        "never", description="Whether clips have sound; choice: the request decides, and the default is with sound"
    )
    image: Choice = Field(
        "choice", description="Whether a clip starts from an input image; choice: the request decides"
    )
    parameters: tuple[str, ...] | None = Field(
        None,
        max_length=_MAX_LISTED,
        description="Names of the supported request parameters, none of which may affect the price; unset: none, or "
        "any if the price is flat",
    )

    def resolve_audio(self, clip: Clip) -> Clip:
        """Return the clip with whether it will have sound."""
        match self.audio:
            case "choice":
                return clip._replace(audio=clip.audio is not False)
            case fixed:
                return clip._replace(audio=fixed == "always")

    def charged_seconds(self, requested: Decimal, made: float) -> Decimal:
        """Return the charged seconds of a clip: as requested, or the nearest possible length if it is shorter.

        Where any length can be made, it is rounded up to a second: vendors cut at a frame.
        """
        lengths = self.seconds or (Decimal(ceil(made)),)
        return min(requested, min(lengths, key=lambda length: abs(float(length) - made)))

    def ordered(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Set the sound of an order as quoted; omit it for a vendor without this option."""
        audio = request.get("audio") is not False if self.audio == "choice" else None
        return {**request, "audio": audio}

    def faults(self, request: GenerationRequest, *, is_flat: bool = False) -> Iterator[str]:
        """List the parts of a request that the model cannot make, each with what is possible."""
        clip = clip_of(request)
        if self.seconds and clip.seconds not in self.seconds:
            yield f"{_plain(clip.seconds)} seconds were asked for, and it makes {_either(map(_plain, self.seconds))}"
        elif self.most_seconds and clip.seconds > self.most_seconds:
            yield f"{_plain(clip.seconds)} seconds were asked for, and it makes at most {_plain(self.most_seconds)}"
        if self.resolutions and clip.resolution not in self.resolutions:
            size = f"{clip.width}x{clip.height} pixels ({clip.resolution})"
            yield f"{size} were asked for, and it makes {_either(self.resolutions)}"
        if self.aspects and not any(_is_aspect(clip, aspect) for aspect in self.aspects):
            yield f"{clip.width}:{clip.height} was asked for as width to height, and it makes {_either(self.aspects)}"
        if clip.audio is not None and self.audio == ("never" if clip.audio else "always"):
            yield f"sound was {'' if clip.audio else 'not '}wanted, and its videos {self.audio} have it"
        if self.image == ("never" if clip.has_image else "always"):
            yield "it takes no image to start from" if clip.has_image else "it needs an image to start from"
        known = set(request.parameters) if is_flat and self.parameters is None else set(self.parameters or ())
        # guard catalogue.parameters: a parameter requests a clip that costs more than was quoted and held
        if unsupported := sorted(set(request.parameters) - known):
            taken = f"takes {_either(self.parameters)} alone" if self.parameters else "takes none"
            yield f"parameter {', '.join(map(repr, unsupported))} was set, and it {taken}"


class JobPrice(BaseModel):
    """The flat price and cost of a job of any length and size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_usd: Usd = Field(Decimal("0.01"), description="Base price of a job, in dollars")
    complexity_usd: Usd = Field(Decimal("0.0025"), description="Price per unit of complexity, in dollars")
    compute_usd: Usd = Field(Decimal("0.01"), description="Compute cost of a job, in dollars")
    api_usd: Usd = Field(Decimal("0.005"), description="Cost of the API calls of a job, in dollars")

    @property
    def cost_usd(self) -> Decimal:
        """The cost of a job before its video is stored."""
        return self.compute_usd + self.api_usd


def _kind(price: object) -> str:
    fields = price.keys() if isinstance(price, Mapping) else ()
    return "flat" if isinstance(price, JobPrice) or JobPrice.model_fields.keys() & fields else "vendor"


AnyPrice = Annotated[
    Annotated[VendorPrice, Tag("vendor")] | Annotated[JobPrice, Tag("flat")],
    Discriminator(_kind),  # so that errors are those of the intended kind
]


class Offer(BaseModel):
    """Another provider of a model, which may make its videos as well. The user's price stays the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: ProviderName = Field(description="Provider that makes the videos")
    vendor_model: str | None = Field(
        None, min_length=1, max_length=200, description="Name of the model at that vendor; unset: the same"
    )
    limits: ModelLimits | None = Field(None, description="Limits of the model at that provider; unset: the same")
    price: AnyPrice = Field(description="Price of that vendor; the user's price does not depend on the provider used")


class ModelEntry(BaseModel):
    """A model that is sold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, max_length=200, description="Name of the model in requests")
    provider: ProviderName | None = Field(None, description="Provider of the model; unset: the configured provider")
    vendor_model: str | None = Field(
        None, min_length=1, max_length=200, description="Name of the model at the vendor; unset: the same"
    )
    limits: ModelLimits = Field(ModelLimits(), description="What the model can make")
    price: AnyPrice | None = Field(
        None, description="The vendor's price, or a flat price; unset: not sold, unless `unpriced` is sell"
    )
    offers: tuple[Offer, ...] = Field(
        (),
        max_length=5,
        description="Other providers of the model; `routing` chooses between them and the one above for each job",
    )
    most_at_once: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Maximum concurrent jobs of the model, over all its providers; unset: as in `concurrency`",
    )
    most_attempts: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Maximum attempts per job of the model, after which the job is dead; unset: as in `attempts`",
    )

    @model_validator(mode="after")
    def _each_provider_once(self) -> Self:
        if self.offers and (self.provider is None or self.price is None):
            raise ValueError("a model with offers names its own provider and price too")
        if len(set(self.providers)) < len(self.providers):
            raise ValueError(f"a provider is named twice: {', '.join(self.providers)}")
        return self

    @property
    def providers(self) -> tuple[str, ...]:
        """The model's providers, in order."""
        first = (self.provider,) if self.provider else ()
        return first + tuple(other.provider for other in self.offers)

    @property
    def quoted_model(self) -> str | None:
        """The vendor's only model for which the price holds; None: a flat price, for any model."""
        return self.vendor_model or (self.model if isinstance(self.price, VendorPrice) else None)

    @property
    def is_billed_by_clip(self) -> bool:
        """Check whether its cost is independent of its duration, at every provider."""
        prices = (self.price, *(other.price for other in self.offers))
        return all(isinstance(price, VendorPrice) and price.unit is not Unit.GPU_SECOND for price in prices)

    def at(self, provider: str | None) -> Self:
        """Return the entry with the limits and price of an offer of `provider`; for other providers, its own."""
        for other in self.offers:
            if other.provider == provider:
                limits = other.limits or self.limits
                changes = {
                    "provider": provider,
                    "vendor_model": other.vendor_model,
                    "limits": limits,
                    "price": other.price,
                }
                return self.model_copy(update=changes)
        return self

    def gpu_second_usd(self, request: Mapping[str, Any]) -> Decimal | None:
        """Return the price of a GPU's second for such a clip, in dollars; None: the vendor bills another unit."""
        if not isinstance(self.price, VendorPrice) or self.price.unit is not Unit.GPU_SECOND:
            return None
        clip = self.limits.resolve_audio(clip_of(GenerationRequest.model_validate(request)))
        return max((rate.usd for rate in self.price.rates if rate.fits(clip)), default=None)

    def able_providers(self, request: GenerationRequest) -> tuple[str, ...]:
        """List the providers that can make a request, in order."""
        # guard catalogue.able: a job goes to a provider that makes a different clip, or refuses it
        return tuple(name for name in self.providers if self.at(name).refusal(request) is None)

    def refusal(self, request: GenerationRequest) -> str | None:
        """Explain why the model cannot make a request; None: it can."""
        faults = list(self.limits.faults(request, is_flat=not isinstance(self.price, VendorPrice)))
        if not faults and isinstance(self.price, VendorPrice):
            clip = self.limits.resolve_audio(clip_of(request))
            if self.price.amounts(clip, Decimal(0)) is None:
                faults = [f"it has no price for {clip.resolution} {'with' if clip.audio else 'without'} sound"]
        return f"model {self.model!r} cannot do this: {'; '.join(faults)}. Nothing was held" if faults else None


def _is_aspect(clip: Clip, aspect: str) -> bool:
    width, height = map(int, aspect.split(":"))
    return abs(clip.width * height / (clip.height * width) - 1) <= _SAME_ASPECT


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _either(values: Iterable[str]) -> str:
    *others, last = values
    return f"{', '.join(others)} or {last}" if others else str(last)
