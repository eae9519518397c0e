"""How long the store keeps records without references. Records of customers' bytes or money are never deleted.

It always keeps: the audit record, the ledger (transfers, entries, holds on credits), charges, each day's spend, videos,
blobs, requests to keep them, what purges freed, webhook endpoints, and leases, whose tokens are never reused. Each
field has a minimum: no rule looks back further.
"""

from pydantic import BaseModel, ConfigDict, Field


class RecordRetentionPolicy(BaseModel):
    """After how many days a record goes, if ever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages_days: int | None = Field(
        90,
        ge=7,
        description="Messages that were sent, diverted, withdrawn or given up, or wait for a webhook that is disabled; "
        "notices that are over",
    )
    plans_days: int | None = Field(90, ge=7, description="Plans with their verdicts, but for those of purged bytes")
    jobs_days: int | None = Field(
        90,
        ge=62,
        description="Jobs that are over, uploads, reservations: so long the same key gives the same answer",
    )
    intents_days: int | None = Field(90, ge=7, description="Intents of swaps and restores that are done or given up")
    searches_days: int | None = Field(
        400, ge=7, description="What searches for a CRF have found and cost, which later ones learn from"
    )
    scans_days: int | None = Field(30, ge=7, description="Comparisons of bucket and catalogue")
    alerts_days: int | None = Field(400, ge=62, description="Alerts that are over, and snoozes")
    windows_days: int | None = Field(400, ge=31, description="Quarters of an hour of the service's performance")
    views_days: int | None = Field(400, ge=62, description="Views of a video on a day")
    usage_days: int | None = Field(1_100, ge=800, description="Usage by day, which charges and forecasts were made of")
    totals_days: int | None = Field(
        400, ge=62, description="What the jobs of a provider, model, tier or user came to in a day or a month"
    )
    forecasts_days: int | None = Field(1_100, ge=62, description="Forecasts of the bill")
