"""A Kubernetes manifest held against Kubernetes' own models: no unknown field, none missing, each of its type."""

import re
from collections.abc import Iterator
from typing import Any

from kubernetes_asyncio import client

_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object, "datetime": str}


def faults(kind: str, value: Any, where: str = "") -> Iterator[str]:  # noqa: ANN401  YAML
    """Give what is wrong in a value that shall be of `kind`, such as V1Job or list[V1Container], and where."""
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for number, one in enumerate(value):
            yield from faults(listed[1], one, f"{where}[{number}]")
    elif mapped := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no mapping"
            return
        for name, one in value.items():
            yield from faults(mapped[1], one, f"{where}.{name}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):  # type: ignore[arg-type]  # a type, or a tuple of them
            yield f"{where}: {value!r} is no {kind}"
    else:
        yield from _faults_of_model(getattr(client, kind), value, where)


def _faults_of_model(model: Any, value: Any, where: str) -> Iterator[str]:  # noqa: ANN401  the client has no types
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no {model.__name__}"
        return
    names = {written: name for name, written in model.attribute_map.items()}
    yield from (f"{where}.{written}: not known" for written in value if written not in names)
    known = {names[written]: one for written, one in value.items() if written in names}
    for name, one in known.items():
        yield from faults(model.openapi_types[name], one, f"{where}.{model.attribute_map[name]}")
    try:
        model(**known)  # raises for what is missing
    except ValueError as error:
        yield f"{where}: {error}"
