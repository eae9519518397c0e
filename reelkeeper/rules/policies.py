"""Define every threshold, tier, price, budget and limit of a deployment, as one document. Pure.

A run's own parameters are exceptions: `overridden` puts the set fields over those in force. In a document and in an
exception, `never` (or `none`) means that a rule is off or has no limit; null and an omitted field both mean
"unchanged". Where a person writes null and could mean `never`, it is refused.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model, model_validator
from pydantic.fields import FieldInfo

from reelkeeper.errors import PolicyRefused
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.earlier_policies import (
    FIXED,
    earlier,
    instead,
    moved,
    set_otherwise,
    with_offers,
    with_tiers,
    without_fixed,
)
from reelkeeper.rules.core.record_retention import RecordRetentionPolicy
from reelkeeper.rules.core.request_limits import AccessPolicy
from reelkeeper.rules.core.tiers import DOCUMENT, TierPolicy, Tiers
from reelkeeper.rules.core.tiers import SHIPPED as SHIPPED_TIERS
from reelkeeper.rules.health.performance import PerformancePolicy
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.rules.jobs.breaker import BreakerPolicy
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.dispatch import DispatchPolicy
from reelkeeper.rules.jobs.pruning import PrunePolicy
from reelkeeper.rules.jobs.routing import RoutingPolicy
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe, links
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.sync.adoption import AdoptionLimits

_Policy = TypeVar("_Policy", bound=BaseModel)
NOTHING: Final = ("never", "none")  # words for a rule that is off


class _Absent:
    """The value of a missing tier's field."""

    def __str__(self) -> str:
        return "-"

    __repr__ = __str__


ABSENT: Final = _Absent()


class Policies(BaseModel):
    """All policies. Each section is defined beside its rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiers: Tiers = SHIPPED_TIERS
    lifecycle: LifecyclePolicy = LifecyclePolicy()
    limits: BlastRadius = BlastRadius()
    recipe: Recipe = Recipe()
    acceptance: Acceptance = Acceptance()
    adoption: AdoptionLimits = AdoptionLimits()
    record_retention: RecordRetentionPolicy = RecordRetentionPolicy()
    pruning: PrunePolicy = PrunePolicy()
    admission: AdmissionPolicy = AdmissionPolicy()
    book: PriceBook = PriceBook()
    order: DispatchPolicy = DispatchPolicy()
    attempts: AttemptPolicy = AttemptPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    routing: RoutingPolicy = RoutingPolicy()
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy()
    goals: PerformancePolicy = PerformancePolicy()
    budget: BudgetPolicy = BudgetPolicy()
    anomaly: AnomalyPolicy = AnomalyPolicy()
    access: AccessPolicy = AccessPolicy()

    @model_validator(mode="after")
    def _segments_fit_the_tiers(self) -> Self:
        if wrong := self.lifecycle.contradiction(self.tiers):
            raise ValueError(wrong)
        return self

    @property
    def caps(self) -> tuple[Cap, ...]:
        """The caps on concurrent jobs, of `concurrency` and of the models in the book."""
        named = ((entry.model, entry.most_at_once) for entry in self.book.models)
        of_models = (Cap.model_construct(scope=f"model:{model}", jobs=jobs) for model, jobs in named if jobs)
        return (*self.concurrency.caps, *of_models)

    @property
    def links(self) -> str:
        """What becomes of links to the service's own keys."""
        return links(self.recipe.place, self.lifecycle.grace)

    def attempts_of(self, model: str) -> AttemptPolicy:
        """Return the attempt policy for jobs of a model."""
        entry = self.book.entry(model)
        most = entry.most_attempts if entry else None
        return self.attempts.model_copy(update={"most_attempts": most}) if most else self.attempts

    def overridden(self, **exceptions: BaseModel | None) -> Self:
        """Apply the fields that each section's exception sets. Raises ValidationError for contradictions.

        An exception sets the fields in pydantic's `model_fields_set`; None sets none. Raises PolicyRefused for an
        unknown tier, and for segments that contradict the tiers.
        """
        update = {name: _over(getattr(self, name), model) for name, model in exceptions.items() if model is not None}
        changed = self.model_copy(update=update)
        # guard policy.overridden_segments: a run's segments contradict the tiers in force
        if wrong := changed.lifecycle.contradiction(changed.tiers):
            raise PolicyRefused(f"refused, and nothing was changed: with the policies in force, {wrong}")
        return changed

    def changes(self, other: "Policies") -> dict[str, tuple[object, object]]:
        """Return the fields that differ in `other`: dotted name -> (value here, value there).

        `tiers` itself is their names in order; for a tier on one side only, the other value is ABSENT.
        """
        mine, theirs = dict(_leaves("", self)), dict(_leaves("", other))
        both = ((name, mine.get(name, ABSENT), theirs.get(name, ABSENT)) for name in mine | theirs)
        return {name: (here, there) for name, here, there in both if here != there}


class InForce(NamedTuple):
    """The policies of one version. Version 0 is the policies as shipped, until a document is applied."""

    version: int
    policies: Policies


DEFAULTS: Final = Policies()
SHIPPED: Final = InForce(0, DEFAULTS)


def policy_of(hint: Any) -> Any:  # noqa: ANN401  an annotation
    """Return the policy class of a field or parameter, also of an optional one; None if it is not a policy."""
    parts = (hint, *(inner for part in get_args(hint) for inner in (part, *get_args(part))))
    return next((part for part in parts if hasattr(part, "model_fields")), None)


def off_word(policy: Any, path: Sequence[str | int]) -> str | None:  # noqa: ANN401  a class
    """Return the word that switches off the rule of the field at `path`; None if it cannot be off, or is no field."""
    name, annotation = "", policy
    for part in path:
        if isinstance(part, int):  # an item of a list
            continue
        policy = policy_of(annotation)
        if policy is Tiers:
            annotation = TierPolicy
            continue
        fields: Mapping[str, FieldInfo] = getattr(policy, "model_fields", {})
        if part not in fields:  # pydantic names the options of a union, too
            break
        name, annotation = part, fields[part].annotation
    return word_for_off(name) if type(None) in get_args(annotation) else None


def word_for_off(name: str) -> str:
    """Return the word for "off" that suits the field: "never" for a time or a number of views, else "none"."""
    return NOTHING[not name.endswith(("_days", "_views"))]


def nulls(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:  # noqa: ANN401  what JSON holds
    """Find the nulls in a document, or in a part of one."""
    if value is None:
        yield path
    places = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, item in places:
        yield from nulls(item, (*path, name))


def misread_null(path: tuple[str | int, ...]) -> str | None:
    """Return the word to write in a document instead of null, where null would not switch the rule off."""
    usual: Any = DEFAULTS
    for part in path:  # an item of a list has none: in a segment, null is "as the tier or the policy"
        usual = usual.get(str(part)) if isinstance(usual, Tiers) else getattr(usual, str(part), None)
    return off_word(Policies, path) if usual is not None else None


def section_of(policy: type[BaseModel]) -> str:
    """Return the section of a policy, such as `limits` for BlastRadius."""
    return next(name for name in Policies.model_fields if type(getattr(DEFAULTS, name)) is policy)


def exception(policy: type[BaseModel], fields: Mapping[str, Any]) -> BaseModel:
    """Validate the fields of an exception one by one; contradictions are found when it is applied.

    Raises ValidationError for an unknown field or an invalid value; PolicyRefused for one that has moved to the tiers,
    or is fixed now at another value.
    """
    section = section_of(policy)
    for name in fields:
        if place := moved(section, name):
            raise PolicyRefused(f"{name} is {place} now, in a parameter of its own; nothing was changed")
    require_fixed({section: as_written(fields)})
    fields = without_fixed({section: fields}).get(section, {})
    if policy is Tiers:
        found = _tiers_apart().validate_python(as_written(fields))
        return Tiers.model_construct({name: _exception(TierPolicy, tier) for name, tier in found.items()})
    return _exception(policy, _apart(policy).model_validate(as_written(fields)))


def _exception(policy: type[_Policy], found: BaseModel) -> _Policy:
    values = {name: getattr(found, name) for name in policy.model_fields}
    return policy.model_construct(_fields_set=set(found.model_fields_set), **values)


@cache
def _tiers_apart() -> TypeAdapter[dict[str, BaseModel]]:
    each: Any = _apart(TierPolicy)
    return TypeAdapter(dict[str, each])


@cache
def _apart(policy: type[BaseModel]) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (field.annotation, _optional(field)) for name, field in policy.model_fields.items()}
    return create_model(policy.__name__, __config__=policy.model_config, **fields)


def _optional(field: FieldInfo) -> FieldInfo:
    return FieldInfo.merge_field_infos(field, default=None) if field.is_required() else field


def as_written(value: Any) -> Any:  # noqa: ANN401  a document, or a part of it
    """Convert a document, or a part of one, for validation: without nulls, and with None for `never`."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    return value


def _plain(value: Any) -> Any:  # noqa: ANN401  the same
    if isinstance(value, str) and value in NOTHING:
        return None
    return as_written(value)


TERMS: Final = {  # of plans, by flow: a run's exceptions make others
    "tier_storage": ("policy", "tiers", "recipe", "acceptance"),
    "expire_videos": ("policy", "tiers"),
}


def terms_in(policies: Policies, names: Iterable[str]) -> dict[str, Any]:
    """Return those of these terms of a plan that policies have, as they are without a run's exceptions."""
    grace = policies.lifecycle.grace
    sections = {"policy": "lifecycle", "tiers": "tiers", "recipe": "recipe", "acceptance": "acceptance"}
    every = {name: getattr(policies, section).model_dump(mode="json") for name, section in sections.items()}
    every |= {"grace_days": grace.days, "grace_days_service_keys": grace.service_days}
    every |= {"max_objects": policies.limits.max_objects}
    return {name: every[name] for name in names if name in every}


def terms_of(under: Mapping[str, Any]) -> tuple[LifecyclePolicy, Tiers]:
    """Read the lifecycle and the tiers of a plan saved by any version of Reelkeeper."""
    terms = earlier({"lifecycle": under["policy"], **({"tiers": under["tiers"]} if "tiers" in under else {})})
    return LifecyclePolicy.model_validate(terms["lifecycle"]), Tiers.model_validate(terms.get("tiers", SHIPPED_TIERS))


def recipe_of(under: Mapping[str, Any]) -> tuple[Recipe, Acceptance]:
    """Read the recipe, and what its results must reach, of a plan saved by any version of Reelkeeper."""
    terms = without_fixed({name: under[name] for name in ("recipe", "acceptance")})
    return Recipe.model_validate(terms["recipe"]), Acceptance.model_validate(terms["acceptance"])


def fixed_faults(document: Mapping[str, Any]) -> list[str]:
    """Name the fields of a document, without nulls, that are fixed now at another value."""
    found = set_otherwise(document).items()
    return [f"{name}={_worded(name, value)}, but {_now(name, instead(name, value))}" for name, value in found]


def fixed_at(name: str) -> str | None:
    """Say which value a field of earlier versions has for good; None for any other name."""
    return _now(name, FIXED[name]) if name in FIXED else None


def _now(name: str, value: object) -> str:
    if name in FIXED:
        return f"it is {_worded(name, value)} for every deployment now"
    return f"there is no such choice any more: left out, it is {value}"


def _worded(name: str, value: object) -> object:
    return word_for_off(name) if value is None else value


def require_fixed(document: Mapping[str, Any]) -> None:
    """Raise PolicyRefused where a document, without nulls, sets fields that are fixed now to another value."""
    if faults := fixed_faults(document):
        raise PolicyRefused(f"refused, and nothing was changed: {'; '.join(faults)}. Leave that out")


def parse(document: Mapping[str, Any], shipped: Policies = DEFAULTS) -> Policies:
    """Read a document; omitted fields are as shipped, for this store. Raises ValidationError with every error.

    If it names tiers, there are no others. Fields that are fixed now are left out; see `fixed_faults`.
    """
    tiers = document.get("tiers")
    if isinstance(tiers, Mapping):  # a tier without fields still exists
        document = {**document, "tiers": {name: {} if fields is None else fields for name, fields in tiers.items()}}
    defaults, given = shipped.model_dump(mode="json"), with_tiers(with_offers(without_fixed(as_written(document))))
    if isinstance(named := given.get("tiers"), Mapping):
        defaults["tiers"] = {name: defaults["tiers"].get(name) for name in named}
    merged = json.dumps(_merged(defaults, given), default=str)
    return Policies.model_validate_json(merged, context=DOCUMENT)


def _merged(base: Any, changes: Any) -> Any:  # noqa: ANN401  what JSON holds
    if isinstance(base, dict) and isinstance(changes, dict):
        return base | {name: _merged(base.get(name), item) for name, item in changes.items()}
    return changes


def _over(base: Any, changes: Any) -> Any:  # noqa: ANN401  two models of one class
    if isinstance(base, Tiers):
        if unknown := [name for name in changes.names if name not in base.root]:
            raise PolicyRefused(f"no tier {', '.join(map(repr, unknown))}; there are {', '.join(base.names)}")
        return Tiers.model_validate(base.root | {name: _over(base.root[name], tier) for name, tier in changes.items()})
    values = {name: getattr(changes, name) for name in changes.model_fields_set}
    nested = {name: _over(getattr(base, name), item) for name, item in values.items() if isinstance(item, BaseModel)}
    merged = {name: getattr(base, name) for name in type(base).model_fields} | values | nested
    return type(base).model_validate(merged)


def _leaves(prefix: str, model: BaseModel) -> Iterator[tuple[str, object]]:
    if isinstance(model, Tiers):
        yield prefix.removesuffix("."), model.names
    for name, value, _ in described(model):
        if isinstance(value, BaseModel):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def described(model: BaseModel) -> Iterator[tuple[str, object, str]]:
    """Return name, value and description of each field of a section, in order; a nested section is a single value."""
    if isinstance(model, Tiers):
        yield from ((name, tier, "") for name, tier in model.items())
        return
    for name, field in type(model).model_fields.items():
        yield name, getattr(model, name), field.description or ""
