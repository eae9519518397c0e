"""Name the scopes of limits: a provider, model, tier or user, or `*` for each without its own limit. Pure."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, TypeVar

from pydantic import StringConstraints

EACH: Final = "*"
LimitScope = Annotated[str, StringConstraints(pattern=r"^((provider|model|tier):\S+|user:\S(.*\S)?)$", max_length=250)]
_Limit = TypeVar("_Limit")


def of_job(provider: str | None, model: str, tier: str | None, user_id: str) -> tuple[str, ...]:
    """Return the scopes that a job belongs to; an unknown provider or tier is left out."""
    known = (("provider", provider), ("model", model), ("tier", tier), ("user", user_id))
    return tuple(f"{kind}:{name}" for kind, name in known if name)


def limits_of(scopes: Iterable[str], limits: Mapping[str, _Limit]) -> dict[str, _Limit]:
    """Return the limit of each of these scopes that has one: its own, or that of `*` for its kind."""
    found = {}
    for scope in scopes:
        limit = limits.get(scope, limits.get(f"{scope.partition(':')[0]}:{EACH}"))
        if limit is not None:
            found[scope] = limit
    return found


def in_words(scope: str) -> str:
    """Return "user ann" for "user:ann"."""
    return scope.replace(":", " ", 1)
