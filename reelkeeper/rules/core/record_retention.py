"""Define how long the store keeps unreferenced records. Records of customers' bytes or money are never deleted.

It always keeps: the audit record, the ledger (transfers, entries, holds on credits), charges, daily spend, videos,
blobs, requests to keep them, what purges freed, webhook endpoints, and leases but those of videos. Each field has a
minimum: no rule looks back further.
"""

from pydantic import BaseModel, ConfigDict, Field


class RecordRetentionPolicy(BaseModel):
    """The days after which each kind of record is deleted, if ever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages_days: int | None = Field(
        90,
        ge=7,
        description="Messages that were sent, diverted, withdrawn or given up, or that wait for a disabled webhook; "
        "completed notices",
    )
    plans_days: int | None = Field(90, ge=7, description="Plans with their verdicts, except those of purged bytes")
    jobs_days: int | None = Field(
        90,
        ge=62,
        description="Finished jobs, uploads and reservations: while they are kept, the same idempotency key gives the "
        "same answer",
    )
    intents_days: int | None = Field(
        90,
        ge=7,
        description="Intents of swaps and restores that are completed or abandoned, and leases of videos without one",
    )
    searches_days: int | None = Field(
        400, ge=7, description="Results and costs of CRF searches, which later searches learn from"
    )
    scans_days: int | None = Field(30, ge=7, description="Comparisons of the bucket with the catalogue")
    alerts_days: int | None = Field(400, ge=62, description="Resolved alerts, and snoozes")
    windows_days: int | None = Field(
        400, ge=31, description="Performance figures of the service per quarter of an hour"
    )
    views_days: int | None = Field(400, ge=62, description="Views per video and day")
    usage_days: int | None = Field(1_100, ge=800, description="Usage per day, the basis of charges and forecasts")
    totals_days: int | None = Field(
        400, ge=62, description="Totals of jobs per provider, model, tier or user, by day and month"
    )
    forecasts_days: int | None = Field(1_100, ge=62, description="Forecasts of the bill")
    backups_days: int = Field(
        14,
        ge=8,  # the last one that was restored as a check is never older
        le=30,  # in which an erased user must be gone from them
        description="Nightly backups of the store, once a newer one is whole",
    )
