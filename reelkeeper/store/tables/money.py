"""Tables of credits, quotas, usage and charges. Amounts are integers: micro-dollars for users, nano-dollars for us."""

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from reelkeeper.model.money import AccountKind, HoldState, Metric, ReservationState, TransferKind, UsageSource
from reelkeeper.store.tables.columns import UtcDateTime, known


class Account(SQLModel, table=True):
    """An account of credits. Each user has two, `user/ID` and `held/ID`, never below zero; the house's may go below."""

    __tablename__ = "accounts"
    __table_args__ = (
        known("kind", AccountKind),
        sa.CheckConstraint("kind = 'house' OR balance_microusd >= 0", name="no_debt"),
    )
    id: str = Field(primary_key=True)
    kind: str
    user_id: str | None = Field(None, foreign_key="users.id", index=True)
    balance_microusd: int = Field(0, sa_type=sa.BigInteger)  # the sum of its entries


class Transfer(SQLModel, table=True):
    """One move of credits, once per idempotency key. `request_sha256` is of its parameters."""

    __tablename__ = "transfers"
    __table_args__ = (known("kind", TransferKind), sa.Index("ix_transfers_user", "user_id", "kind", "at"))
    id: str = Field(primary_key=True)
    idempotency_key: str = Field(unique=True)
    request_sha256: str
    kind: str
    user_id: str = Field(foreign_key="users.id")
    hold_id: str | None = Field(None, index=True)
    amount_microusd: int = Field(sa_type=sa.BigInteger)
    at: datetime = Field(sa_type=UtcDateTime)
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON)


class Entry(SQLModel, table=True):
    """The effect of a transfer on one account. The entries of a transfer sum to zero, and so do all entries."""

    __tablename__ = "entries"
    __table_args__ = (sa.Index("ix_entries_account", "account_id"),)
    transfer_id: str = Field(primary_key=True, foreign_key="transfers.id")
    account_id: str = Field(primary_key=True, foreign_key="accounts.id")
    amount_microusd: int = Field(sa_type=sa.BigInteger)


class CreditHold(SQLModel, table=True):
    """Credits set aside for one piece of work, until exactly one of capture, release or expiry ends it."""

    __tablename__ = "credit_holds"
    __table_args__ = (
        known("state", HoldState),
        sa.CheckConstraint("captured_microusd BETWEEN 0 AND amount_microusd", name="captured_of_hold"),
        sa.CheckConstraint("refunded_microusd BETWEEN 0 AND captured_microusd", name="refunded_of_captured"),
        sa.Index("ix_credit_holds_open", "state", "expires_at"),
    )
    id: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="users.id", index=True)
    state: str = HoldState.OPEN
    amount_microusd: int = Field(sa_type=sa.BigInteger)
    captured_microusd: int = Field(0, sa_type=sa.BigInteger)
    refunded_microusd: int = Field(0, sa_type=sa.BigInteger)
    price_book: str | None = None  # the version of the quoted price
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    settled_at: datetime | None = Field(None, sa_type=UtcDateTime)


class StorageAccount(SQLModel, table=True):
    """A user's stored and reserved bytes. `quota_bytes` overrides the tier's quota."""

    __tablename__ = "storage_accounts"
    __table_args__ = (
        sa.CheckConstraint("used_bytes >= 0", name="some_used"),
        sa.CheckConstraint("reserved_bytes >= 0", name="some_reserved"),
    )
    user_id: str = Field(primary_key=True, foreign_key="users.id")
    used_bytes: int = Field(0, sa_type=sa.BigInteger)  # the live blobs of live videos
    reserved_bytes: int = Field(0, sa_type=sa.BigInteger)  # the open reservations
    quota_bytes: int | None = Field(None, sa_type=sa.BigInteger)


class Reservation(SQLModel, table=True):
    """Bytes promised to an upload or a job before they arrive, until settled, released or expired."""

    __tablename__ = "reservations"
    __table_args__ = (known("state", ReservationState), sa.Index("ix_reservations_open", "state", "expires_at"))
    id: str = Field(primary_key=True)  # the caller's idempotency key
    user_id: str = Field(foreign_key="users.id", index=True)
    state: str = ReservationState.OPEN
    size_bytes: int = Field(sa_type=sa.BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    settled_at: datetime | None = Field(None, sa_type=UtcDateTime)


class UsageDay(SQLModel, table=True):
    """The usage of one metric on a UTC day. No row means unknown, which is not zero."""

    __tablename__ = "usage_days"
    __table_args__ = (known("metric", Metric), known("source", UsageSource))
    day: date = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    resource: str = Field("", primary_key=True)  # an R2 action, a bucket, a model; "" where there is only one
    storage_class: str = Field("", primary_key=True)
    user_id: str = Field("", primary_key=True)  # "": the account as a whole
    provider: str = Field("", primary_key=True, sa_column_kwargs={"server_default": ""})  # that made a job
    quantity: int = Field(sa_type=sa.BigInteger)  # in the metric's unit; a peak for stored bytes, else a sum
    sampled: bool = False


class ChargeRow(SQLModel, table=True):
    """The cost of one service on a UTC day that may still change for one user; exports use the names of FOCUS.

    A user's rows have list cost. The row of user "" is the residual of free allowances, rounding and usage without an
    owner, so that `billed_nanousd` of all rows sums to the bill.
    """

    __tablename__ = "charges"
    __table_args__ = (sa.Index("ix_charges_user", "user_id", "day"),)
    day: date = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    user_id: str = Field("", primary_key=True)
    service: str
    tier: str | None = None
    consumed_quantity: int = Field(sa_type=sa.BigInteger)
    consumed_unit: str
    list_nanousd: int = Field(sa_type=sa.BigInteger)
    billed_nanousd: int = Field(sa_type=sa.BigInteger)
    price_book: str
    estimated: bool = False  # from incomplete or sampled usage
    policy_version: int = Field(0, sa_column_kwargs={"server_default": "0"})
    provider: str = Field("", sa_column_kwargs={"server_default": ""})  # "": a job's, from before it was recorded


class ChargeMonth(SQLModel, table=True):
    """The cost of one service for one user, or the residual, on the days of a month that are rolled up."""

    __tablename__ = "charge_months"
    __table_args__ = (sa.Index("ix_charge_months_user", "user_id", "month"),)
    month: date = Field(primary_key=True)  # its first day
    sku: str = Field(primary_key=True)
    user_id: str = Field("", primary_key=True)
    service: str
    tier: str | None = None  # on the last of these days
    consumed_quantity: int = Field(sa_type=sa.BigInteger)
    consumed_unit: str
    list_nanousd: int = Field(sa_type=sa.BigInteger)
    billed_nanousd: int = Field(sa_type=sa.BigInteger)
    price_book: str
    estimated: bool = False
    policy_version: int = 0
    provider: str = ""


class ChargeDay(SQLModel, table=True):
    """The cost of one service on a UTC day for the users of one tier together: it stays when the day is rolled up."""

    __tablename__ = "charge_days"
    day: date = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    tier: str = Field("", primary_key=True)  # "": users without one, and the residual
    service: str
    consumed_quantity: int = Field(sa_type=sa.BigInteger)
    consumed_unit: str
    list_nanousd: int = Field(sa_type=sa.BigInteger)
    billed_nanousd: int = Field(sa_type=sa.BigInteger)
    estimated: bool = False
    provider: str = ""


class SpendDay(SQLModel, table=True):
    """The cost of a UTC day so far, in one row, so that requests need not sum its charges."""

    __tablename__ = "spend_days"
    day: date = Field(primary_key=True)
    charged_microusd: int = Field(0, sa_type=sa.BigInteger)  # all charges except those for generation
    generated_microusd: int = Field(0, sa_type=sa.BigInteger)  # the cost of the jobs that ended on this day


class JobTotalRow(SQLModel, table=True):
    """The total cost of the jobs of a provider, model, tier or user: spent in a period, or with "" in flight."""

    __tablename__ = "job_totals"
    period: str = Field(primary_key=True)  # 2026-11-26, 2026-11, or "": jobs in flight
    scope: str = Field(primary_key=True)  # provider:fal, model:veo, tier:free, user:ID; all:jobs: those in flight
    microusd: int = Field(0, sa_type=sa.BigInteger)
    refusals: int = 0  # requests refused for its limit
    jobs: int = Field(0, sa_column_kwargs={"server_default": "0"})  # that are in flight
    milliseconds: int = Field(  # that these are expected to take
        0, sa_type=sa.BigInteger, sa_column_kwargs={"server_default": "0"}
    )


class ForecastRow(SQLModel, table=True):
    """The forecast of one service's cost in one month by a run of `forecast_costs`; service "" is the total."""

    __tablename__ = "forecasts"
    run_id: str = Field(primary_key=True)
    month: date = Field(primary_key=True)  # its first day
    service: str = Field("", primary_key=True)
    as_of: datetime = Field(sa_type=UtcDateTime, index=True)
    mean_microusd: int = Field(sa_type=sa.BigInteger)
    lower80_microusd: int = Field(sa_type=sa.BigInteger)
    upper80_microusd: int = Field(sa_type=sa.BigInteger)
    lower95_microusd: int = Field(sa_type=sa.BigInteger)
    upper95_microusd: int = Field(sa_type=sa.BigInteger)
    method: str
