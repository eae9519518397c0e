"""Redact secrets from all that this process logs or prints, whichever library wrote the line.

And ids of users, which must be in no log and not in Prefect's database: an erasure reaches neither.

Our own messages contain no secrets. Libraries log some: botocore at level DEBUG the signed headers of each request,
httpx at INFO the address of each webhook. So every log record is redacted as it is created, before any handler,
Prefect's to its server included, gets it.
"""

import logging
import re
import traceback
from collections.abc import Iterable
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

SHOWN = "***"
_SHORTEST = 6  # characters: what is shorter is no secret, and would be cut out of innocent words
_ACCESS = "uvicorn.access"
_LONG = 16  # characters of an address's path, that no other path has by chance
_SIGNATURES = r"(?<=Signature=)[0-9a-f]{64}|(?<=Signature:\n)[0-9a-f]{64}|(?<=X-Amz-Security-Token=)[^&\s]+"

# Whose something is, as our own sentences and keys say it: what comes after `user`, and the folders before a video.
# A key begins after a quote or with a word, and goes on over spaces to the first video's ending.
_VIDEO = r"\.(?:mp4|webm|mov|mkv|m4v)\b"
_NAME = rf"(?:(?!{_VIDEO})[^\n'\"`/:,]){{1,256}}"
_OWNERS = re.compile(
    r"\b(?P<said>users?[ ]?[:=]?[ ]?(?P<quote>['\"]))(?:\\.|(?!(?P=quote))[^\\\n]){1,2400}(?P=quote)"
    r"|(?P<account>\b(?:user|held)[:/=](?=[^\s?&'\",;()])|/users/|\buser_id=)(?:(?<!/users/)[^\s?&'\",;()]+|[^\s/?&'\",;()]+)"
    rf"|(?:(?<=['\"`])(?=\S){_NAME}|(?<![\w.~/-])[^\s'\"`/:,]{{1,256}})/(?:{_NAME}/){{0,19}}(?P<file>{_NAME}{_VIDEO})"
)

_known: frozenset[str] = frozenset()
_pattern = re.compile(_SIGNATURES)
_make_record = logging.getLogRecordFactory()


def hide(secrets: Iterable[str]) -> None:
    """Redact these from all log records of this process from now on; of a URL, also everything after its host."""
    global _known, _pattern  # noqa: PLW0603  one process, one set of secrets
    _known |= {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST}
    longest_first = sorted(_known, key=lambda secret: (-len(secret), secret))
    # guard secrets.signatures: a signed request stands in a log, and can be sent by others
    _pattern = re.compile("|".join([*map(re.escape, longest_first), _SIGNATURES]))
    _install()


@cache
def _install() -> None:
    # guard secrets.records: a library writes a secret into a log
    logging.setLogRecordFactory(_clean_record)


def redacted(text: str) -> str:
    """Return `text` with every secret, and every signature made with one, replaced by ***."""
    return _pattern.sub(SHOWN, text)


def unnamed(text: str) -> str:
    """Return `text` without the user ids in our sentences, accounts and keys."""
    return _OWNERS.sub(_unnamed, text)


def _unnamed(found: re.Match[str]) -> str:
    if found["said"]:
        return f"{found['said']}{SHOWN}{found['quote']}"
    return f"{found['account']}{SHOWN}" if found["account"] else f"{SHOWN}/{found['file']}"


def _forms(secret: str) -> set[str]:
    """List the strings that would reveal a secret: itself, a URL's password, or a part that may be logged alone."""
    try:
        parts = urlsplit(secret)
        password = parts.password
    except ValueError:
        return {secret}
    if password:
        # guard secrets.password: the password of the store stands in a log
        return {secret, password, unquote(password)}
    if parts.scheme in {"http", "https"}:
        rest = f"{parts.path}?{parts.query}" if parts.query else parts.path
        # guard secrets.path: the address of a webhook, which is all its secret, stands in a log
        return {secret, rest if len(rest) >= _LONG else secret}
    return set() if parts.scheme.startswith("sqlite") else {secret}


def _clean_record(*arguments: Any, **named: Any) -> logging.LogRecord:  # noqa: ANN401  logging's own signature
    record = _make_record(*arguments, **named)
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  the handler reports a message that does not fit its arguments
        return record
    # guard secrets.users: the id of a user stands in a log, which no erasure reaches
    clean = unnamed(redacted(message))
    if clean != message:
        # guard secrets.requests: a line about a request names the user, or cannot be written at all
        if record.name == _ACCESS and isinstance(record.args, tuple):  # its formatter reads the arguments
            record.args = tuple(unnamed(redacted(part)) if isinstance(part, str) else part for part in record.args)
        else:
            record.msg, record.args = clean, None
    if record.exc_info and record.exc_info[0]:
        trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        clean = unnamed(redacted(trace))
        if clean != trace:
            # guard secrets.traces: a secret stands in the traceback of an error
            record.exc_info, record.exc_text = None, clean
    return record
