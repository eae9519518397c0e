"""Nouns of money and usage. Micro-dollars are millionths of a dollar, nano-dollars thousandths of those."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

MICRO: Final = 10**6  # micro-dollars in a dollar
NANO: Final = 10**9  # nano-dollars in a dollar
NANO_IN_MICRO: Final = 1_000


def next_month(day: date) -> date:
    """Return the first day of the month after `day`'s."""
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def end_of_month(day: date) -> date:
    """Return the last day of `day`'s month."""
    return next_month(day) - timedelta(days=1)


def each_day(first: date, last: date) -> Iterator[date]:
    """Yield the days from `first` to `last`, both included."""
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


class StorageClass(StrEnum):
    """Storage class of an object in R2, which decides its price."""

    STANDARD = "standard"
    INFREQUENT_ACCESS = "infrequent_access"


class Metric(StrEnum):
    """A metric counted each UTC day. The unit is in the name; a metric without one is a count."""

    STORED_BYTES = "stored_bytes"  # the day's peak
    OPERATIONS = "operations"  # by R2's name of the action, in `resource`
    RETRIEVED_BYTES = "retrieved_bytes"  # of infrequent access alone, which charges for it
    UPLOADED_BYTES = "uploaded_bytes"
    DELETED_BYTES = "deleted_bytes"
    JOBS = "jobs"  # generations that succeeded, by model, in `resource`
    GENERATION_SECONDS = "generation_seconds"
    USERS = "users"
    JOB_MICROUSD = "job_microusd"  # the cost of jobs that is not their model's flat price, by model
    JOB_REBATE_MICROUSD = "job_rebate_microusd"  # by how much it is below the book's price, by model; negative: above
    CLIP_JOBS = "clip_jobs"  # those of the jobs that have this cost, by model


class UsageSource(StrEnum):
    """The source of a count. Two sources of the same day are compared, never added."""

    STORE = "store"
    CLOUDFLARE = "cloudflare"


class Used(NamedTuple):
    """The usage of a metric on a UTC day, by one user or, with `user_id` "", by the account as a whole."""

    day: date
    metric: Metric
    quantity: int
    resource: str = ""
    storage_class: str = ""
    user_id: str = ""
    source: UsageSource = UsageSource.STORE
    sampled: bool = False
    provider: str = ""  # that made a job; "" where there is only one, or it was not recorded


class Charge(NamedTuple):
    """Cost of one service on a UTC day for one user; the row of user "" is the residual that completes the bill.

    With `until` it is of the days from `day` to before that one.
    """

    day: date
    service: str
    sku: str
    user_id: str
    tier: str | None
    consumed_quantity: int
    consumed_unit: str
    list_nanousd: int
    billed_nanousd: int
    price_book: str
    estimated: bool = False
    provider: str = ""  # who charges it; "": the provider of a job, from before it was recorded
    until: date | None = None


class VendorJob(NamedTuple):
    """One job in its vendor's list or bill; without an id, the sum of a day and model."""

    id: str | None  # the vendor's
    model: str
    at: datetime
    cost_nanousd: int | None = None  # None: the vendor does not say
    mark: str | None = None  # what we sent it under, where the vendor shows it


class SentJob(NamedTuple):
    """A job at a vendor that it has made, or may have made, for a job of ours. Each attempt is one of its own."""

    job_id: str  # ours
    key: str  # that it was sent under
    vendor_id: str | None
    sent_at: datetime
    ended_at: datetime | None
    cost_microusd: int | None  # what counts for it: as reported, else expected if the vendor may charge; None: open


class SoFar(NamedTuple):
    """The cost so far of a day and of its month, and the quoted cost of the jobs in flight."""

    today_microusd: int
    month_microusd: int
    in_flight_microusd: int


class JobTotal(NamedTuple):
    """The cost of one scope's jobs, in micro-dollars: spent in a period or, with `period` "", in flight."""

    scope: str  # provider:fal, model:veo, tier:free, user:ID
    period: str  # 2026-11-26, 2026-11, or ""
    microusd: int
    refusals: int  # requests that were refused in the period, as its limit left no room


TOO_SHORT: Final = "less than a week of usage is known, too little for a range"  # a forecast's `method`


class CostForecast(NamedTuple):
    """The forecast of one service's cost in a month, or with `service` "" of all, by a run of `forecast_costs`.

    Eight of ten months end between `lower80` and `upper80`, and one above, where the forecast `has_range`.
    """

    month: date  # its first day
    service: str
    as_of: datetime
    mean_microusd: int
    lower80_microusd: int
    upper80_microusd: int
    lower95_microusd: int
    upper95_microusd: int
    method: str

    @property
    def has_range(self) -> bool:
        """Check whether enough is known to say how far the month may be from what is expected."""
        return self.method != TOO_SHORT


class AccountKind(StrEnum):
    """The kind of an account: a user's spendable credits, the user's held ones, or the house's."""

    USER = "user"
    HELD = "held"
    HOUSE = "house"


class TransferKind(StrEnum):
    """Reason for a movement of credits."""

    GRANT = "grant"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    EXPIRE = "expire"
    REFUND = "refund"


class Moved(NamedTuple):
    """One transfer of credits in the ledger. The same request again returns the same one."""

    id: str
    kind: TransferKind
    user_id: str
    hold_id: str | None
    amount_microusd: int  # of a capture: what was captured; the rest of the hold went back to the user
    at: datetime


class Balance(NamedTuple):
    """A user's balance of credits."""

    available_microusd: int  # what can be spent
    held_microusd: int  # what is set aside for work under way
    spent_microusd: int  # what was captured and not refunded


class HoldState(StrEnum):
    """State of held credits: open -> captured, released or expired."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


class Mismatch(NamedTuple):
    """A stored total, and its recount."""

    what: str  # balance, held, spent, transfer: micro-dollars; used_bytes, reserved_bytes: bytes
    subject: str  # an account, a user or a transfer
    recorded: int
    counted: int


class QuotaUse(NamedTuple):
    """A user's stored and reserved bytes. `override_bytes` replaces the tier's quota."""

    user_id: str
    tier: str | None
    used_bytes: int
    reserved_bytes: int
    override_bytes: int | None = None


class ReservationState(StrEnum):
    """State of reserved bytes: open -> settled, released or expired."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Freed(NamedTuple):
    """Bytes that purges freed on a UTC day, by the rule that retired them."""

    day: date
    rule: str  # replaced, grace_over, orphan, unfinished
    size_bytes: int


class Saved(NamedTuple):
    """The saving on a UTC day from bytes freed before it. `kind` is in words."""

    day: date
    kind: str
    nanousd: int


class PublishedRate(NamedTuple):
    """A price of one unit, of all clips or of those of a resolution (shorter side), with or without sound."""

    usd: Decimal
    resolution: str | None = None
    audio: bool | None = None


class Published(NamedTuple):
    """The prices, limits and end of one model, as a vendor or a price list states them; None and empty: not stated."""

    source: str
    unit: str = "second"  # of `rates`, as in the catalogue where it has it
    rates: tuple[PublishedRate, ...] = ()
    is_base: bool = False  # one price, of which some clips may cost a multiple
    seconds: tuple[Decimal, ...] = ()
    resolutions: tuple[str, ...] = ()
    aspects: tuple[str, ...] = ()
    has_sound: bool | None = None
    is_listed: bool = True
    ends_on: date | None = None
