"""Parse `--param limits.max_objects=10` into the typed parameters of a flow."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from reelkeeper.errors import Misconfigured
from reelkeeper.rules.core.earlier_policies import moved
from reelkeeper.rules.core.tiers import TierPolicy, Tiers
from reelkeeper.rules.policies import DEFAULTS, Policies, fixed_at, nulls, off_word, policy_of

OURS = {"dry_run": "--apply", "as_of": "--as-of", "plan_id": "--plan"}  # each has its own option
_WANTED = {"tuple_type": "should be a list, in JSON", "model_type": "should be an object, in JSON"}  # by type
_CONTEXT = "work"  # arguments of a preview besides its parameters


def read(flow: str, function: Callable[..., Any], params: Sequence[str]) -> dict[str, Any]:
    """Return the validated parameters that `params` set. A value is parsed as JSON, else taken as text.

    Raises Misconfigured for a name that the flow does not have, and for a value that its policy does not allow, with
    field, value and limit.
    """
    hints = get_type_hints(function, include_extras=True)
    known = [name for name in inspect.signature(function).parameters if name not in OURS and name != _CONTEXT]
    given: dict[str, Any] = {}
    for param in params:
        name, equals, text = param.partition("=")
        if not equals:
            raise Misconfigured(f"--param {param!r} must be NAME=VALUE, e.g. --param limits.max_objects=10")
        first, *rest = name.split(".")
        if first in OURS:
            raise Misconfigured(f"--param {name}: use {OURS[first]} instead")
        if first not in known:
            raise Misconfigured(f"{flow} has no parameter {first!r}; it has {', '.join(known) or 'none'}")
        _check_path(hints.get(first), name, rest)
        _put(given, [first, *rest], _value(text))
    return {name: _validated(name, hints.get(name, Any), value) for name, value in given.items()}


def _value(text: str) -> Any:  # noqa: ANN401  whatever JSON holds
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(into: dict[str, Any], path: list[str], value: Any) -> None:  # noqa: ANN401  whatever JSON holds
    *parents, last = path
    for parent in parents:
        nested = into.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise Misconfigured(f"--param sets both {'.'.join(path)} and all of {parent!r}: give only one of them")
        into = nested
    into[last] = value


def _check_path(hint: Any, name: str, rest: list[str]) -> None:  # noqa: ANN401  an annotation
    if policy_of(hint) is Tiers and rest:
        hint, rest = TierPolicy, rest[1:]  # the first part is a tier's name; the policy in force has the tiers
    section = _section(hint)
    for part in rest:
        fields: Mapping[str, Any] = getattr(policy_of(hint), "model_fields", {})
        if part not in fields:
            if place := section and moved(section, part):
                raise Misconfigured(f"--param {name}: it has moved to {place}")
            if fixed := section and fixed_at(".".join([section, *rest])):
                raise Misconfigured(f"--param {name}: {fixed}")
            listed = f"; it has {', '.join(fields)}" if fields else "; it takes a single value"
            raise Misconfigured(f"--param {name}: no field {part!r}{listed}")
        hint = fields[part].annotation


def _section(hint: Any) -> str | None:  # noqa: ANN401  an annotation
    policy = policy_of(hint)
    return next((name for name in Policies.model_fields if type(getattr(DEFAULTS, name)) is policy), None)


def _validated(name: str, hint: Any, value: Any) -> Any:  # noqa: ANN401  an annotation and what it validates
    from pydantic import TypeAdapter, ValidationError

    policy = policy_of(hint)
    for path in nulls(value):  # a form writes null for an untouched field, a person does not
        # guard policy.null_parameter: null is taken for `never`, and the videos that it should keep are retired
        if word := off_word(policy, path):
            raise Misconfigured(
                f"{'.'.join([name, *map(str, path)])}=null: "
                f"`{word}` switches it off; a field that is left out is as the policy in force says"
            )
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        wrong = "; ".join(_fault(name, policy, dict(entry)) for entry in error.errors())
        raise Misconfigured(f"--param {wrong}") from None


def _fault(name: str, policy: Any, fault: dict[str, Any]) -> str:  # noqa: ANN401  a class, or None
    if not fault["loc"] and isinstance(fault["input"], dict):
        return f"{name}: {fault['msg'].removeprefix('Value error, ')}"  # fields that contradict each other
    where = ".".join([name, *map(str, fault["loc"])])
    word = off_word(policy, fault["loc"])
    wanted = _WANTED.get(fault["type"], fault["msg"])
    told = f"{where}={fault['input']!r}: {wanted[:1].lower()}{wanted[1:]}"
    return f"{told}; `{word}` switches it off" if word else told
