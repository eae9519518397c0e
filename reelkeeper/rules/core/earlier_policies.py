"""Read policies of earlier versions of Reelkeeper: fields that have moved, are fixed now, or are not used. Pure."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from reelkeeper.rules.core.tiers import SHIPPED as SHIPPED_TIERS

# Fields of earlier versions that nobody had a reason to set, by the value that they have for good: the constant of that
# meaning is where it is used, with its reason. Stored versions and documents with this value are read; another value
# is refused by name.
FIXED: Final[Mapping[str, object]] = {
    "acceptance.frame_step": 1,
    "acceptance.min_saved_bytes": 0,
    "access.body_bytes": 262_144,
    "access.body_bytes_a_second": 100_000,
    "access.body_seconds": 20.0,
    "access.head_seconds": 10.0,
    "access.send_seconds": 30.0,
    "access.wait_seconds": 2.0,
    "alerting.digest_above": 5,
    "alerting.repeat_critical_after_hours": 4,
    "anomaly.drift_percent": 35,
    "anomaly.early_factor": 3,
    "anomaly.history_days": 800,
    "anomaly.quiet_days": 3,
    "anomaly.spreads": 4.2,
    "attempts.longest_pause_seconds": 600,
    "attempts.quiet_seconds": 120,
    "breaker.attempts": 20,
    "breaker.fewest_attempts": 10,
    "breaker.longest_wait_seconds": 1800,
    "breaker.slow_times": 10.0,
    "breaker.trial_jobs": 2,
    "breaker.wait_seconds": 60,
    "breaker.window_minutes": 30,
    "concurrency.cost_setpoint": 0.95,
    "concurrency.fewest_jobs": 10,
    "concurrency.forget": 0.93,
    "concurrency.growth": 1.12,
    "concurrency.min_limit": 1,
    "concurrency.near_peak": 0.99,
    "concurrency.worse": 0.97,
    "goals.fewest_jobs": 10,
    "goals.judged_minutes": 60,
    "order.affinity_levels": 3,
    "order.affinity_seconds": 1200,
    "order.affinity_size_seconds": 60,
    "order.class_bounds_seconds": None,
    "order.oldest_share": 1,
    "order.prompt_points": 10,
    "order.size_classes": 16,
    "pruning.idle_days": 3,
    "pruning.max_entries": 20_000,
    "pruning.min_hits": 2,
    "recipe.aim_points": 0.5,
    "recipe.crf_max": None,
    "recipe.crf_min": None,
    "recipe.max_probes": 4,
    "recipe.payback.expected_probes": "1.5",
    "recipe.payback.expected_size_percent": 35,
    "recipe.search_frame_step": 3,
    "saving.cold_months": 3,
    "saving.expected_size_percent": 50,
    "saving.max_users": 3,
    "saving.min_usd": "1",
}
_ENDED: Final = {"order.rule": {"levels": "aging"}}  # choices of earlier versions, by what does their work now
_UNUSED: Final = {  # fields of earlier versions that no rule reads, whatever they were set to
    *("acceptance.max_vmaf_mean", "pruning.small_percent", "recipe.lean_bits_per_pixel", "recipe.skip_bits_per_pixel"),
    *("order.premium_levels", "order.pro_levels"),  # of order.rule levels
}
_UNUSED_OF_TIER: Final = "queue_levels"  # the same, of any tier
_MOVED: Final = {  # earlier versions' fields for a tier's values -> the tier, and its field there
    "lifecycle": {
        f"{what}_{tier}_days": (tier, f"{what}_days")
        for what in ("retention", "notice", "keep")
        for tier in ("free", "premium", "pro")
    },
    "quota": {f"{tier}_bytes": (tier, "quota_bytes") for tier in ("free", "premium", "pro")},
    "order": {f"{tier}_weight": (tier, "queue_weight") for tier in ("premium", "pro")},
}


def earlier(document: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a document of an earlier version to the present form, with the same meaning."""
    return with_tiers(with_offers(without_fixed(document)))


def without_fixed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what nobody can set now, and sections of which nothing is left."""
    return _without_fixed(document, "")


def _without_fixed(part: Mapping[str, Any], before: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in part.items():
        path = f"{before}{name}"
        if path in FIXED or path in _UNUSED or name == _UNUSED_OF_TIER or _has_ended(path, value):
            continue
        left = _without_fixed(value, f"{path}.") if isinstance(value, Mapping) else value
        if left or not value or before:
            kept[name] = left
    return kept


def set_otherwise(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields of a document with a value that they cannot have now: dotted name -> value in the document."""
    return {
        name: value
        for name, value in _leaves(document, "")
        if _has_ended(name, value) or (name in FIXED and not _is_same(value, FIXED[name]))
    }


def instead(name: str, value: object) -> object:
    """Return what a field that `set_otherwise` found has now."""
    return FIXED[name] if name in FIXED else _ENDED[name][str(value)]


def _has_ended(name: str, value: object) -> bool:
    return name in _ENDED and str(value) in _ENDED[name]


def _leaves(part: Mapping[str, Any], before: str) -> Iterator[tuple[str, object]]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _is_same(value: object, fixed: object) -> bool:
    """Compare a value as written, where money and 1.0 may be text or a whole number."""
    try:
        return value == fixed or Decimal(str(value)) == Decimal(str(fixed))
    except ArithmeticError:  # one of them is no number
        return False


def with_offers(document: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a document whose models have `fallbacks`, used in their order, to one with `offers`."""
    book = document.get("book")
    models = book.get("models") if isinstance(book, Mapping) else None
    if not isinstance(models, list | tuple):
        return dict(document)
    found = any(isinstance(entry, Mapping) and entry.get("fallbacks") for entry in models)
    kept = [
        {"offers" if name == "fallbacks" else name: value for name, value in entry.items()}
        if isinstance(entry, Mapping)
        else entry
        for entry in models
    ]
    # guard policy.in_order: jobs of a book whose providers stood in order go to another one after an upgrade
    in_order = {"routing": {"rule": "first", "wait_limit_seconds": None}} if found else {}
    return {**in_order, **document, "book": {**document["book"], "models": kept}}


def with_tiers(document: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a document with three tiers' values in three sections to one with `tiers`, with the same meaning.

    One that has `tiers` is unchanged.
    """
    if "tiers" in document:
        return dict(document)
    tiers, kept, found = SHIPPED_TIERS.model_dump(mode="json"), dict(document), False
    for section, places in _MOVED.items():
        fields = document.get(section)
        if not isinstance(fields, Mapping):
            continue
        for name, (tier, field) in places.items():
            if name in fields:
                tiers[tier][field], found = fields[name], True
        kept[section] = {name: value for name, value in fields.items() if name not in places}
        if section == "quota" and not kept[section]:
            del kept[section]
    return kept | {"tiers": tiers} if found else kept


def moved(section: str, field: str) -> str | None:
    """Return where a field of a tier has moved in `tiers`; None for any other field."""
    place = _MOVED.get(section, {}).get(field)
    return ".".join(("tiers", *place)) if place else None
