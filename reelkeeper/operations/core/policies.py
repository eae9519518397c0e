"""The policies in force. A process parses each document once, and checks its version at each piece of work."""

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from reelkeeper.errors import NotFound, SchemaError
from reelkeeper.rules.core.earlier_policies import earlier, set_otherwise
from reelkeeper.rules.policies import DEFAULTS, InForce, Policies, fixed_faults, terms_in
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import policies as versions
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.failures import safe_to_repeat


class Read(NamedTuple):
    """A stored version, and those of its fields, with their values there, that have another value for good by now."""

    policies: Policies
    without_effect: Mapping[str, object]


class Version(NamedTuple):
    """A version of the policies, by its number."""

    number: int
    policies: Policies
    without_effect: Mapping[str, object]


_AS_SHIPPED: Final = Read(DEFAULTS, {})
_PARSED: dict[str, Read] = {"": _AS_SHIPPED}  # by the digest of the document
_MAX_PARSED: Final = 64
_WAY: Final = (
    "To apply the rest of it: reelkeeper policy show > policies.yaml, then reelkeeper policy apply policies.yaml "
    "--reason TEXT"
)


def in_force(session: Session) -> InForce:
    """Return the policies in force; without a query where this transaction has read the deployment row already.

    Raises SchemaError where this version of Reelkeeper cannot read them, or where they set what nobody can set now.
    """
    version = versions.in_force(session).version
    policies, without_effect = stored(session, version)
    # guard policy.fixed: after an upgrade, work is done under another value than the one that was applied
    if without_effect:
        raise SchemaError(f"{refusal(version, without_effect)}. No work is done under another value unasked. {_WAY}")
    return InForce(version, policies)


@safe_to_repeat
def current(engine: Engine) -> InForce:
    """Return the policies in force at this moment, for work that has no transaction. Raises SchemaError."""
    with reading(engine) as session:
        return in_force(session)


def are_readable(engine: Engine) -> bool:
    """Check whether this version of Reelkeeper can read the policies in force."""
    try:
        current(engine)
    except SchemaError:
        return False
    return True


def find(engine: Engine, version: int | None) -> Version:
    """Read a version, or the one in force, also one that sets what nobody can set now. Raises NotFound, SchemaError."""
    with reading(engine) as session:
        number = versions.in_force(session).version if version is None else version
        return Version(number, *stored(session, number))


def at(session: Session, version: int) -> Policies:
    """Return the policies of a version, such as that of a job's admission. Raises NotFound, SchemaError."""
    return stored(session, version).policies


def replaced_since(session: Session, moment: datetime, names: Collection[str]) -> bool:
    """Check whether these terms of a plan have other values in force than just before a moment."""
    before, found = versions.before(session, moment), in_force(session)
    return before != found.version and terms_in(at(session, before), names) != terms_in(found.policies, names)


def stored(session: Session, version: int) -> Read:
    """Return a version with its fields that have no effect any more. Raises NotFound, SchemaError."""
    mark = versions.in_force(session)
    if version != mark.version:
        return _read(session, version)
    read = _PARSED.get(mark.digest)
    if read is None:
        read = _read(session, version)
        if len(_PARSED) >= _MAX_PARSED:
            _PARSED.clear()
            _PARSED[""] = _AS_SHIPPED
        _PARSED[mark.digest] = read
    return read


def refusal(version: int, without_effect: Mapping[str, object]) -> str:
    """Say why a version cannot be in force: the fields that nobody can set now."""
    return f"policy version {version} sets {'; '.join(fixed_faults(without_effect))}"


def put_in_force(session: Session, policies: Policies, *, after: int, author: str, reason: str) -> int | None:
    """Write a version and put it in force; None, and nothing written, where another was applied since version `after`.

    It is written with all fields, so that later defaults of Reelkeeper change nothing in force.
    """
    digest = hashlib.sha256(policies.model_dump_json().encode()).hexdigest()
    written = policies.model_dump(mode="json")
    return versions.put_in_force(session, written, digest, after=after, author=author, reason=reason)


def _read(session: Session, version: int) -> Read:
    document = versions.document(session, version)
    if document is None and version == 0:  # of a store that is older than its own version 0
        return _AS_SHIPPED
    if document is None:
        raise NotFound(f"no policy version {version}. To see the versions: reelkeeper policy history")
    return _parsed(version, document)


def _parsed(version: int, document: Mapping[str, Any]) -> Read:
    try:
        return Read(Policies.model_validate_json(json.dumps(earlier(document))), set_otherwise(document))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors())
        # guard policy.unreadable: work is done under policies other than the applied ones
        raise SchemaError(
            f"policy version {version} has fields that this version of Reelkeeper does not accept ({fields}); no work "
            "is done under policies that cannot be read. Run the version of Reelkeeper that applied them"
        ) from None
