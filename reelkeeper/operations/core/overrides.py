"""Exceptions of one run to the policies in force: `policy: Annotated[LifecyclePolicy | None, Override()] = None`.

Only the fields that are set count; all others follow the policies in force. Prefect's forms write null for an untouched
field, so null means unset, and `never` switches a rule off.
"""

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from reelkeeper.errors import PolicyRefused
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.core.policy_document import shown
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.policies import DEFAULTS, NOTHING, Policies, described, exception, section_of
from reelkeeper.store import Engine
from reelkeeper.store.lifecycle import plans


def followed(engine: Engine, **exceptions: BaseModel | None) -> Policies:
    """Return the policies for a run that begins now, with its exceptions by section.

    Raises PolicyRefused where an exception contradicts the rest, SchemaError where the policies cannot be read.
    """
    try:
        return current(engine).policies.overridden(**exceptions)
    except ValidationError as error:
        wrong = "; ".join(str(entry["msg"]).removeprefix("Value error, ") for entry in error.errors())
        raise PolicyRefused(f"refused, and nothing was changed: with the policies in force, {wrong}") from None


def as_params(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Write a flow's parameters as `reelkeeper run` takes them with `--param`: of a policy, the fields that are set."""
    plain = {
        name: value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value
        for name, value in parameters.items()
    }
    return dict(plans.as_params(plain))


class Override:
    """An exception of one run to a policy: each field may be left out, null, or `never` where its rule can be off."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401  a type
        """Validate values as in a policy document; a policy object is accepted as it is."""
        (policy,) = (get_arg for get_arg in get_args(source) if get_arg is not type(None))
        self._policy: type[BaseModel] = policy

        def read(given: Any, validate: core_schema.ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401  whatever comes
            if isinstance(given, policy):
                return given
            return exception(policy, given) if isinstance(given, Mapping) else validate(given)

        return core_schema.no_info_wrap_validator_function(read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the values in force, and set no default: a form would send them back when they may have changed.

        Prefect's form opens on null, of which it says only a type: so the parameter itself has the description.
        """
        made, in_force = handler(schema), getattr(_SHOWN[-1], section_of(self._policy))
        options = [option | ({"title": _UNSET} if option.get("type") == "null" else {}) for option in made["anyOf"]]
        for option in options:
            if "$ref" in option:
                _open(handler.resolve_ref_schema(option), in_force, handler)
        said = inspect.cleandoc(self._policy.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        return {**made, "anyOf": options, "description": f"{said} As deployed: {'; '.join(_told(in_force))}"}


def _told(policy: BaseModel, before: str = "") -> Iterator[str]:
    for name, value, _ in described(policy):
        if isinstance(value, BaseModel):
            yield from _told(value, f"{before}{name}.")
        else:
            yield f"{before}{name} {textwrap.shorten(shown(name, value), _LONGEST, placeholder=' ...')}"


def show_in_force(policies: Policies) -> None:
    """Show the values of these policies, not the shipped defaults, in forms that are generated from now on."""
    _SHOWN.append(policies)


_SHOWN: Final = [DEFAULTS]
_UNSET: Final = "As the policies say"  # the title of null in a form
_LONGEST: Final = 80  # characters of one value


def _open_tiers(section: dict[str, Any], tiers: Tiers, handler: GetJsonSchemaHandler) -> None:
    """Give each tier its own fields, with the values in force; a later tier has them too."""
    each = handler.resolve_ref_schema(section["additionalProperties"])
    section["properties"] = {}
    for name, tier in tiers.items():
        opened = deepcopy(each)
        _open(opened, tier, handler)
        labels = {"title": name, "description": each.get("description", name)}
        section["properties"][name] = {**labels, "anyOf": [opened, {"type": "null"}]}
    _open(each, None, handler)


def _open(section: dict[str, Any], policy: BaseModel | None, handler: GetJsonSchemaHandler) -> None:
    if isinstance(policy, Tiers):
        _open_tiers(section, policy, handler)
        return
    section.pop("required", None)  # an exception may set any fields
    for name, field in section["properties"].items():
        value = getattr(policy, name, None)
        labels = {key: field[key] for key in ("title", "description") if key in field}
        options = field.get("anyOf") or [{key: field[key] for key in field if key not in {*labels, "default"}}]
        for option in options:
            if "$ref" in option and isinstance(value, BaseModel):
                _open(handler.resolve_ref_schema(option), value, handler)
        if policy is not None and not isinstance(value, BaseModel):
            labels["description"] = f"{labels.get('description', name)}. As deployed: {shown(name, value)}"
        if {"type": "null"} not in options:
            options = [*options, {"type": "null"}]
        elif {"enum": [NOTHING[0]]} not in options:
            options = [*options, {"enum": [NOTHING[0]]}]
        section["properties"][name] = {**labels, "anyOf": options}
