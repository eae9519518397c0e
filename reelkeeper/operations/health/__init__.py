"""Diagnose the installation, and detect flows that no longer run."""

from collections.abc import Callable
from dataclasses import dataclass

from reelkeeper.errors import ReelkeeperError
from reelkeeper.redaction import redacted

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one part. `remedy` is empty where nothing needs to be done."""

    part: str
    state: str  # ok, warn, fail
    found: str
    remedy: str = ""


def guarded(part: str, look: Callable[[], Finding]) -> Finding:
    """Check a part; whatever is wrong with it is the finding."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001  whatever is wrong is what was asked for
        return failure(part, error)


def failure(part: str, error: Exception, remedy: str = "") -> Finding:
    """Return the finding of a part that could not be checked, without any secret that its error names."""
    text = str(error) if isinstance(error, ReelkeeperError) else f"{type(error).__name__}: {error}"
    first, *_ = redacted(text).splitlines() or [""]
    return Finding(part, FAIL, first, remedy)
