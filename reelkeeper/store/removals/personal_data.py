"""Declare what an erasure does to every column; `erase_rows` does it. A test checks that no column is missing."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Fate(StrEnum):
    """Effect of an erasure on a column, or on a user's rows."""

    ROWS_GO = "the user's rows are deleted"
    KEPT = "kept: contains no personal data"
    RENAMED = "the user's id is replaced by the pseudonym"
    EMPTIED = "emptied in the user's rows"
    FIGURES = "only figures are kept of the user's rows"
    SEARCHED = "the user's ids are replaced in all texts"
    SEALED = "destroyed with the salt, except figures; the user is a pseudonym"


def _columns(kept: str, **others: str) -> Mapping[str, Fate]:
    """Return the fate of each column: the names of those that are kept, and by fate the names of the others."""
    fates = dict.fromkeys(kept.split(), Fate.KEPT)
    for fate, names in others.items():
        fates |= dict.fromkeys(names.split(), Fate[fate.upper()])
    return MappingProxyType(fates)


_ROWS_GO: Final = """
former_ids videos doubts daily_views orphans key_owners operations holds notices notice_deliveries keeps cache_entries
input_images uploads reservations storage_accounts
"""
FATES: Final[Mapping[str, Fate | Mapping[str, Fate]]] = MappingProxyType(
    {
        # The user, the videos, and everything about them.
        **dict.fromkeys(_ROWS_GO.split(), Fate.ROWS_GO),
        "users": _columns("erasing_at pseudonym", renamed="id", emptied="tier created_at"),
        "blobs": _columns(  # rows stay, so that their numbers are never reused
            "id generation is_ours state size_bytes codec duration_seconds frames encoder quality_mean quality_p5 "
            "stored_at retired_at purge_after run_id claimed_at claim_token",
            emptied="video_id key etag sha256 content_type recipe retire_reason",
        ),
        # Work: costs and durations stay, without the request.
        "jobs": _columns(
            "id leader_id state tier model complexity estimate_seconds price_microusd price_book policy_version "
            "quoted_cost_microusd hold_id reserved_bytes attempts due_at claimed_by lease_token lease_until lane "
            "provider provider_key provider_job_id progress cancel_asked_at created_at started_at finished_at "
            "processing_seconds concurrency cost_microusd line score place",
            renamed="user_id",
            emptied="client_key request_sha256 cache_key reservation_id video_id error tag caller_metadata webhook_url",
            figures="request",
        ),
        "vendor_jobs": _columns("key job_id provider vendor_id sent_at ended_at counted_microusd reported_microusd"),
        "vendor_erasures": _columns("key state is_takedown asked_at due_at tries answered_at"),
        "verdicts": _columns(
            "plan_id blob_id generation action rule segment size_bytes saving_microusd net_microusd outcome "
            "after_bytes",
            renamed="user_id",
            emptied="video_id reason outcome_reason",
        ),
        "crf_searches": _columns(
            "id at run_id model machine encoder preset pixels frames video_bits source_bytes kept_bytes outcome probes "
            "cpu_seconds days gain_microusd cost_microusd",
            renamed="video_id",
        ),
        "job_totals": _columns("period microusd refusals jobs milliseconds", renamed="scope"),
        "leases": _columns("holder token expires_at", emptied="name"),
        # The books: amounts stay, under the pseudonym.
        "accounts": _columns("kind balance_microusd", renamed="id user_id"),
        "transfers": _columns(
            "id kind hold_id amount_microusd at",
            renamed="user_id",
            emptied="idempotency_key request_sha256",
            figures="detail",
        ),
        "entries": _columns("transfer_id amount_microusd", renamed="account_id"),
        "credit_holds": _columns(
            "id state amount_microusd captured_microusd refunded_microusd price_book created_at expires_at settled_at",
            renamed="user_id",
        ),
        "usage_days": _columns(
            "day metric source resource storage_class quantity sampled provider",
            renamed="user_id",
        ),
        "charges": _columns(
            "day sku service tier consumed_quantity consumed_unit list_nanousd billed_nanousd price_book estimated "
            "policy_version provider",
            renamed="user_id",
        ),
        "charge_months": _columns(
            "month sku service tier consumed_quantity consumed_unit list_nanousd billed_nanousd price_book estimated "
            "policy_version provider",
            renamed="user_id",
        ),
        "charge_days": _columns(
            "day sku tier service consumed_quantity consumed_unit list_nanousd billed_nanousd estimated provider"
        ),
        "spend_days": _columns("day charged_microusd generated_microusd"),
        "forecasts": _columns(
            "run_id month service as_of mean_microusd lower80_microusd upper80_microusd lower95_microusd "
            "upper95_microusd method"
        ),
        # The audit record, and messages to people.
        "audit_events": _columns(
            "id at event run_id blob_id previous digest seal", sealed="video_id user_id detail salt"
        ),
        "alerts": _columns(
            "id rule period level state severity impact_microusd run_id first_at last_at told_at is_told message_id "
            "resolved_at acknowledged_at acknowledged_by",
            searched="scope title text suggestion figures",
        ),
        "snoozes": _columns("id rule author created_at until ended_at", searched="scope reason"),
        "outbox": _columns(
            "id kind state alert_ids attachment attachment_name attempts created_at due_at after_id copied_at sent_at "
            "receipt endpoint_id",
            searched="payload last_error subject url",
        ),
        "webhook_endpoints": _columns(
            "id url events secret old_secret old_secret_until created_at closed_until failures failing_since "
            "last_ok_at disabled_at",
            searched="last_error disabled_reason",
        ),
        # Texts by operators, which may name a user.
        "deployment": _columns(
            "id created_at frozen_at frozen_by audit_events audit_head policy_version policy_digest",
            searched="frozen_reason",
        ),
        "plans": _columns(
            "id flow state as_of created_at applied_at run_id policy policy_hash policy_version population "
            "population_bytes kept widening approved_at approved_by",
            searched="refusal approval_reason",
        ),
        "policy_versions": _columns("version digest created_at author", searched="document reason"),
        # Without personal data.
        "blocked_bytes": _columns("blob_id sha256 etag size_bytes blocked_at"),  # a takedown stays in force
        "epochs": _columns("name number kind detail is_own lease announced_at confirmed_at"),  # ids as salted digests
        "view_days": _columns("day"),
        "scans": _columns("id run_id started_at finished_at objects size_bytes outcome"),
        "heartbeats": _columns("flow last_ok_at period_seconds grace_seconds run_id run_seconds"),
        "api_tokens": _columns("id name sha256 scopes created_at expires_at revoked_at last_used_at"),
        "performance_windows": _columns("start_at tier model seconds figures"),
        "controls": _columns("name state updated_at"),
    }
)

# Of anybody's rows: what a person or a rule wrote there may name the user.
NOTES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "holds": ("reason",),
        "videos": ("retire_reason", "refused_reason"),
        "blobs": ("retire_reason",),
        "verdicts": ("reason", "outcome_reason"),
        "jobs": ("error", "caller_metadata"),
        "transfers": ("detail",),
        "uploads": ("refusal",),
    }
)


def searched() -> dict[str, list[str]]:
    """List the columns that are searched for the user's ids, by table."""
    return {
        table: names
        for table, fates in FATES.items()
        if not isinstance(fates, Fate) and (names := [name for name, fate in fates.items() if fate == Fate.SEARCHED])
    }
