"""Nouns of money and usage. Micro-dollars are millionths of a dollar, nano-dollars thousandths of those."""

from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple


class StorageClass(StrEnum):
    """How R2 keeps an object, and at which price."""

    STANDARD = "standard"
    INFREQUENT_ACCESS = "infrequent_access"


class Metric(StrEnum):
    """What is counted each UTC day. The unit stands in the name; what has none is a count."""

    STORED_BYTES = "stored_bytes"  # the day's peak
    OPERATIONS = "operations"  # by R2's name of the action, in `resource`
    RETRIEVED_BYTES = "retrieved_bytes"  # of infrequent access alone, which charges for it
    UPLOADED_BYTES = "uploaded_bytes"
    DELETED_BYTES = "deleted_bytes"
    JOBS = "jobs"  # generations that succeeded, by model, in `resource`
    GENERATION_SECONDS = "generation_seconds"
    USERS = "users"
    JOB_MICROUSD = "job_microusd"  # what those of them cost whose vendors bill by the clip, by model


class UsageSource(StrEnum):
    """Who counted. Two sources of the same day are compared, never added."""

    STORE = "store"
    CLOUDFLARE = "cloudflare"


class Used(NamedTuple):
    """So much of a metric on a UTC day, by one user or, with `user_id` "", by the account as a whole."""

    day: date
    metric: Metric
    quantity: int
    resource: str = ""
    storage_class: str = ""
    user_id: str = ""
    source: UsageSource = UsageSource.STORE
    sampled: bool = False


class Charge(NamedTuple):
    """What one service cost on a UTC day for one user; the row of user "" is the residual that completes the bill."""

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


class VendorJob(NamedTuple):
    """One job as its vendor's list or bill has it; without an id it is all of a day and model, which are not named."""

    id: str | None  # the vendor's
    model: str
    at: datetime
    cost_nanousd: int | None = None  # None: the vendor does not say
    mark: str | None = None  # what we sent it under, where the vendor shows it


class SentJob(NamedTuple):
    """A job of ours that a vendor has made, or may have, with its present names there."""

    id: str
    claims: int  # how often it was claimed; the keys that it was sent under have numbers up to this
    vendor_key: str | None
    vendor_id: str | None
    started_at: datetime
    finished_at: datetime | None
    cost_microusd: int | None  # what it cost as the vendor told, or was expected; None: nothing, as far as we know


class SoFar(NamedTuple):
    """What a day, and its month up to it, have cost so far, and what the jobs in flight will cost by their quotes."""

    today_microusd: int
    month_microusd: int
    in_flight_microusd: int


class JobTotal(NamedTuple):
    """The cost of one scope's jobs, in micro-dollars: spent in a period or, with `period` "", in flight."""

    scope: str  # provider:fal, model:veo, tier:free, user:ID
    period: str  # 2026-11-26, 2026-11, or ""
    microusd: int
    refusals: int  # requests that were refused in the period, as its limit left no room


class CostForecast(NamedTuple):
    """What one service, or with `service` "" all of them, will cost in a month, as a run of `forecast_costs` said.

    Of ten months, eight end between `lower80` and `upper80`, and one above.
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


class AccountKind(StrEnum):
    """Whose account: what a user may spend, what is held of it, or the house's."""

    USER = "user"
    HELD = "held"
    HOUSE = "house"


class TransferKind(StrEnum):
    """Why credits move."""

    GRANT = "grant"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    EXPIRE = "expire"
    REFUND = "refund"


class Moved(NamedTuple):
    """One move of credits as the ledger has it. The same request again gives the same."""

    id: str
    kind: TransferKind
    user_id: str
    hold_id: str | None
    amount_microusd: int  # of a capture: what was captured; the rest of the hold went back to the user
    at: datetime


class Balance(NamedTuple):
    """What a user's credits come to."""

    available_microusd: int  # what can be spent
    held_microusd: int  # what is set aside for work under way
    spent_microusd: int  # what was captured and not refunded


class HoldState(StrEnum):
    """Where held credits stand: open -> captured, released or expired."""

    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


class Mismatch(NamedTuple):
    """A figure that is kept, and what counting it anew gives."""

    what: str  # balance, held, spent, transfer: micro-dollars; used_bytes, reserved_bytes: bytes
    subject: str  # an account, a user or a transfer
    recorded: int
    counted: int


class Standing(NamedTuple):
    """What a user stores and was promised. `override_bytes` stands in place of what the tier grants."""

    user_id: str
    tier: str | None
    used_bytes: int
    reserved_bytes: int
    override_bytes: int | None = None


class ReservationState(StrEnum):
    """Where reserved bytes stand: open -> settled, released or expired."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Freed(NamedTuple):
    """Bytes that purges freed on a UTC day, by the rule of the plan that let them go."""

    day: date
    rule: str  # replaced, grace_over, orphan, unfinished
    size_bytes: int


class Saved(NamedTuple):
    """What was not paid on a UTC day because of what had been freed before it. `kind` is in words."""

    day: date
    kind: str
    nanousd: int
