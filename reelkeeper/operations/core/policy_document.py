"""Read policies.yaml and name every error, and write it with each field's description."""

import inspect
import json
import textwrap
from collections.abc import Hashable, Iterator
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from reelkeeper.errors import PolicyRefused
from reelkeeper.rules.core.earlier_policies import moved
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.policies import (
    ABSENT,
    DEFAULTS,
    Policies,
    as_written,
    described,
    fixed_faults,
    misread_null,
    nulls,
    off_word,
    parse,
    word_for_off,
)

_WIDTH: Final = 116
_HEAD: Final = """\
# Every threshold, tier, price, budget and limit. To use it: reelkeeper policy apply FILE --reason "..."
# A field that is left out keeps the value that Reelkeeper ships. `never` or `none` switches a rule or a limit off.
# A document that names a tier must name all of them: one that is left out is removed.
"""


def read(text: str, name: str, shipped: Policies = DEFAULTS) -> Policies:
    """Read a document; omitted fields are as in `shipped`, the store's version 0.

    Raises PolicyRefused with every error; `name` is the file's name for them.
    """
    try:
        found = yaml.load(text, _Strict)  # noqa: S506  a SafeLoader that refuses a name given twice
    except (yaml.YAMLError, RecursionError) as error:
        raise PolicyRefused(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if found is None:
        found = {}
    if not isinstance(found, dict):
        raise PolicyRefused(f"{name} must contain sections, such as `quota:`, but contains a {type(found).__name__}")
    for section, fields in found.items():
        if fields is not None and not isinstance(fields, dict):
            if section not in Policies.model_fields:
                raise PolicyRefused(f"{name}: {section}: no such field. To see all fields: reelkeeper policy show")
            raise PolicyRefused(
                f"{name}: {section} must contain fields, such as `grace_days: 7`, but contains {fields!r}"
            )
    # guard policy.null: null is taken for `never`, and the videos that it should keep are retired
    faults = [_unclear(path, word) for path in nulls(found) if (word := misread_null(path))]
    faults += [f"{fault}: leave it out" for fault in fixed_faults(as_written(found))]
    try:
        policies = parse(found, shipped)
    except ValidationError as error:
        faults += [_fault(dict(entry)) for entry in error.errors()]
    if faults:
        raise PolicyRefused(f"{name} was refused, and nothing was changed:\n" + "\n".join(f"  {it}" for it in faults))
    return policies


def write(policies: Policies, *, only_changed: bool = False) -> str:
    """Write a document that `read` returns unchanged, each field with its description."""
    lines = [_HEAD]
    for section in type(policies).model_fields:
        model, shipped = getattr(policies, section), getattr(DEFAULTS, section)
        body = list(
            _tiers(model, shipped, only_changed=only_changed)
            if isinstance(model, Tiers)
            else _fields(model, shipped, "  ", only_changed=only_changed)
        )
        if body:
            first = inspect.cleandoc(type(model).__doc__ or "").partition("\n\n")[0]
            lines += [*textwrap.wrap(first, _WIDTH, initial_indent="# ", subsequent_indent="# "), f"{section}:", *body]
            lines.append("")
    return "\n".join(lines)


def shown(name: str, value: object) -> str:
    """Format the value of the field `name` as in the document."""
    if value is ABSENT:
        return str(value)
    if value is None:
        return word_for_off(name)
    if isinstance(value, tuple):
        plain = [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value]
        return json.dumps(plain, default=str)
    return json.dumps(value) if isinstance(value, bool | str) else str(value)


def _tiers(tiers: Tiers, shipped: Tiers, *, only_changed: bool) -> Iterator[str]:
    """Write all tiers, as a document that has any must have all; each field's description is at its first use."""
    if only_changed and list(tiers.items()) == list(shipped.items()):
        return
    explained = set[str]()
    for name, tier in tiers.items():
        usual = shipped.get(name)
        lines = list(_fields(tier, usual or tier, "    ", only_changed=only_changed and usual is not None))
        yield f"  {name}:" if lines else f"  {name}: {{}}"
        yield from (line for line in lines if line not in explained)
        explained.update(line for line in lines if line.lstrip().startswith("#"))


def _fields(model: BaseModel, shipped: BaseModel, indent: str, *, only_changed: bool) -> Iterator[str]:
    for name, value, description in described(model):
        usual = getattr(shipped, name)
        if only_changed and value == usual:
            continue
        if description:
            yield from textwrap.wrap(description, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _fields(value, usual, f"{indent}  ", only_changed=only_changed)
        else:
            yield f"{indent}{name}: {shown(name, value)}"


def _fault(fault: dict[str, Any]) -> str:
    where = ".".join(map(str, fault["loc"])) or "the document"
    if fault["type"] == "extra_forbidden":
        if place := moved(*where.partition(".")[::2]):
            return f"{where}: this field is {place} now"
        return f"{where}: no such field. To see all fields: reelkeeper policy show"
    message = str(fault["msg"]).removeprefix("Value error, ")
    value = "" if isinstance(fault["input"], dict) else f"={fault['input']!r}"
    word = off_word(Policies, fault["loc"])
    return f"{where}{value}: {message[:1].lower()}{message[1:]}" + (f"; `{word}` switches it off" if word else "")


def _unclear(path: tuple[str | int, ...], word: str) -> str:
    return f"{'.'.join(map(str, path))}=null: `{word}` switches it off; a field that is left out is not changed"


class _Strict(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse duplicate keys."""
        names = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if twice := {str(name) for name in names if names.count(name) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(sorted(twice))} is named twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)
