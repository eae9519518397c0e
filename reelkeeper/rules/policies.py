"""Every threshold, tier, price, budget and limit of a deployment, as one document. Pure.

A run's own parameters are exceptions: `overridden` puts the fields that somebody set over those in force. In a document
and in an exception, `never` (or `none`) stands for a rule that is off or a limit that is not there; null and a field
that is not named both mean "as it is".
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, create_model

from reelkeeper.rules.alerts.alerting import AlertPolicy
from reelkeeper.rules.billing.quota import QuotaPolicy
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.access import AccessPolicy
from reelkeeper.rules.health.performance import PerformancePolicy
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.dispatch import DispatchPolicy
from reelkeeper.rules.jobs.pruning import PrunePolicy
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.record_retention import RecordRetentionPolicy
from reelkeeper.rules.lifecycle.savings import SavingsPolicy
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.sync.adoption import AdoptionLimits

NOTHING: Final = ("never", "none")  # the words for a rule that is off
_DROPPED: Final = {  # fields that earlier versions wrote, and that no rule reads any more
    "recipe": {"skip_bits_per_pixel", "lean_bits_per_pixel"},
    "acceptance": {"max_vmaf_mean"},
    "pruning": {"small_percent"},
}


class Policies(BaseModel):
    """All policies. Each section is described beside its rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lifecycle: LifecyclePolicy = LifecyclePolicy()
    limits: BlastRadius = BlastRadius()
    recipe: Recipe = Recipe()
    acceptance: Acceptance = Acceptance()
    adoption: AdoptionLimits = AdoptionLimits()
    record_retention: RecordRetentionPolicy = RecordRetentionPolicy()
    pruning: PrunePolicy = PrunePolicy()
    admission: AdmissionPolicy = AdmissionPolicy()
    quota: QuotaPolicy = QuotaPolicy()
    book: PriceBook = PriceBook()
    order: DispatchPolicy = DispatchPolicy()
    attempts: AttemptPolicy = AttemptPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy()
    goals: PerformancePolicy = PerformancePolicy()
    budget: BudgetPolicy = BudgetPolicy()
    anomaly: AnomalyPolicy = AnomalyPolicy()
    saving: SavingsPolicy = SavingsPolicy()
    alerting: AlertPolicy = AlertPolicy()
    access: AccessPolicy = AccessPolicy()

    @property
    def caps(self) -> tuple[Cap, ...]:
        """The caps on jobs at once, of `concurrency` and of the models in the book."""
        named = ((entry.model, entry.most_at_once) for entry in self.book.models)
        of_models = (Cap.model_construct(scope=f"model:{model}", jobs=jobs) for model, jobs in named if jobs)
        return (*self.concurrency.caps, *of_models)

    def attempts_of(self, model: str) -> AttemptPolicy:
        """Say how often and how patiently a job of a model is tried."""
        entry = self.book.entry(model)
        most = entry.most_attempts if entry else None
        return self.attempts.model_copy(update={"most_attempts": most}) if most else self.attempts

    def overridden(self, **exceptions: BaseModel | None) -> Self:
        """Put the fields that each section's exception sets over those here. Raises ValidationError where they clash.

        Which fields an exception sets is what pydantic calls `model_fields_set`; None sets none.
        """
        update = {name: _over(getattr(self, name), model) for name, model in exceptions.items() if model is not None}
        return self.model_copy(update=update)

    def changes(self, other: "Policies") -> dict[str, tuple[object, object]]:
        """Give the fields that `other` has otherwise: dotted name -> (value here, value there)."""
        mine, theirs = dict(_leaves("", self)), dict(_leaves("", other))
        return {name: (mine.get(name), theirs.get(name)) for name in mine if mine.get(name) != theirs.get(name)}


class InForce(NamedTuple):
    """The policies of one version. Version 0 is what Reelkeeper ships, until a document is applied."""

    version: int
    policies: Policies


DEFAULTS: Final = Policies()
SHIPPED: Final = InForce(0, DEFAULTS)


def section_of(policy: type[BaseModel]) -> str:
    """Name the section that a policy is, such as `limits` for BlastRadius."""
    return next(name for name in Policies.model_fields if type(getattr(DEFAULTS, name)) is policy)


def exception(policy: type[BaseModel], fields: Mapping[str, Any]) -> BaseModel:
    """Read the fields of an exception, each by itself: what they contradict is known once they meet those in force.

    Raises ValidationError for a field that is not there, or a value that it does not take.
    """
    found = _apart(policy).model_validate(as_written(fields))
    values = {name: getattr(found, name) for name in policy.model_fields}
    return policy.model_construct(_fields_set=set(found.model_fields_set), **values)


@cache
def _apart(policy: type[BaseModel]) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in policy.model_fields.items()}
    return create_model(policy.__name__, __config__=policy.model_config, **fields)


def as_written(value: Any) -> Any:  # noqa: ANN401  a document, or a part of it
    """Give a document, or a part of one, as its fields take it: without what is null, and `never` as None."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    return value


def _plain(value: Any) -> Any:  # noqa: ANN401  the same
    if isinstance(value, str) and value in NOTHING:
        return None
    return as_written(value)


def without_dropped(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give a document that an earlier version wrote without the fields that no rule reads any more."""
    return {
        section: {name: value for name, value in fields.items() if name not in _DROPPED[section]}
        if section in _DROPPED and isinstance(fields, Mapping)
        else fields
        for section, fields in document.items()
    }


def parse(document: Mapping[str, Any]) -> Policies:
    """Read a document; what it does not name is as shipped. Raises ValidationError with every fault."""
    whole = DEFAULTS.model_dump(mode="json")
    return Policies.model_validate_json(json.dumps(_merged(whole, as_written(document)), default=str))


def _merged(whole: Any, part: Any) -> Any:  # noqa: ANN401  what JSON holds
    if isinstance(whole, dict) and isinstance(part, dict):
        return whole | {name: _merged(whole.get(name), item) for name, item in part.items()}
    return part


def _over(whole: Any, part: Any) -> Any:  # noqa: ANN401  two models of one class
    values = {name: getattr(part, name) for name in part.model_fields_set}
    nested = {name: _over(getattr(whole, name), item) for name, item in values.items() if isinstance(item, BaseModel)}
    merged = {name: getattr(whole, name) for name in type(whole).model_fields} | values | nested
    return type(whole).model_validate(merged)


def _leaves(prefix: str, model: BaseModel) -> Iterator[tuple[str, object]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def described(model: BaseModel) -> Iterator[tuple[str, object, str]]:
    """Give name, value and description of each field of a section, in order; a nested section is a value itself."""
    for name, field in type(model).model_fields.items():
        yield name, getattr(model, name), field.description or ""
