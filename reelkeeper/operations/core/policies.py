"""The policies in force. A process parses each document once, and checks its version at each piece of work."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from reelkeeper.errors import NotFound, SchemaError
from reelkeeper.rules.policies import DEFAULTS, InForce, Policies, earlier
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import policies as versions
from reelkeeper.store.core.engine import reading

_PARSED: dict[str, Policies] = {"": DEFAULTS}  # by the digest of the document
_MAX_PARSED: Final = 64


def in_force(session: Session) -> InForce:
    """Return the policies in force; without a query where this transaction has read the deployment row already.

    Raises SchemaError where this version of Reelkeeper cannot read them.
    """
    version, digest = versions.in_force(session)
    policies = _PARSED.get(digest)
    if policies is None:
        policies = _read(session, version)
        if len(_PARSED) >= _MAX_PARSED:
            _PARSED.clear()
            _PARSED[""] = DEFAULTS
        _PARSED[digest] = policies
    return InForce(version, policies)


def current(engine: Engine) -> InForce:
    """Return the policies in force at this moment, for work that has no transaction. Raises SchemaError."""
    with reading(engine) as session:
        return in_force(session)


def at(session: Session, version: int) -> Policies:
    """Return the policies of a version, such as that of a job's admission. Raises NotFound, SchemaError."""
    present = in_force(session)
    if version == present.version:
        return present.policies
    return _read(session, version)


def put_in_force(session: Session, policies: Policies, *, after: int, author: str, reason: str) -> int | None:
    """Write a version and put it in force; None, and nothing written, where another was applied since version `after`.

    It is written with all fields, so that later defaults of Reelkeeper change nothing in force.
    """
    digest = hashlib.sha256(policies.model_dump_json().encode()).hexdigest()
    written = policies.model_dump(mode="json")
    return versions.put_in_force(session, written, digest, after=after, author=author, reason=reason)


def _read(session: Session, version: int) -> Policies:
    document = versions.document(session, version)
    if document is None and version == 0:  # of a store that is older than its own version 0
        return DEFAULTS
    if document is None:
        raise NotFound(f"no policy version {version}. To see the versions: reelkeeper policy history")
    return _parsed(version, document)


def _parsed(version: int, document: Mapping[str, Any]) -> Policies:
    try:
        return Policies.model_validate_json(json.dumps(earlier(document)))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors())
        # guard policy.unreadable: work is done under policies other than the applied ones
        raise SchemaError(
            f"policy version {version} has fields that this version of Reelkeeper does not accept ({fields}); no work "
            "is done under policies that cannot be read. Run the version of Reelkeeper that applied them"
        ) from None
