"""Named places where a test may kill or stop the process. No-ops unless REELKEEPER_FAILPOINTS is set.

    REELKEEPER_FAILPOINTS="swap.put.after=kill;purge.claim.after_commit=stop@2"

`kill` is SIGKILL to this process, `stop` is SIGSTOP; `@n` acts on the n-th passage, and `*` is every failpoint.
`effect` puts one before and one after an outside effect; `reelkeeper.store.core.engine.transaction` puts one before
and one after its commit.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ARMED: dict[str, tuple[int, int]] = {}  # name -> (signal, passages left)
_OBSERVER: Callable[[str], object] | None = None  # what a test has called at each


def arm(spec: str | None = None) -> None:
    """Read the failpoints from `spec`, or from the environment. An unknown action is a ValueError."""
    _ARMED.clear()
    for part in filter(None, (spec if spec is not None else os.environ.get("REELKEEPER_FAILPOINTS", "")).split(";")):
        name, _, action = part.partition("=")
        verb, _, nth = action.partition("@")
        signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
        if verb not in signals:
            raise ValueError(f"REELKEEPER_FAILPOINTS: {part!r} wants an action of kill or stop")
        _ARMED[name] = (signals[verb], int(nth or 1))


def observe(observer: Callable[[str], object] | None) -> None:
    """Call `observer` with the name of every failpoint passed in this process from now on; None ends it."""
    global _OBSERVER  # noqa: PLW0603  one process-wide observer is the point
    _OBSERVER = observer


def failpoint(name: str) -> None:
    """Pass the failpoint `name`."""
    if _OBSERVER is not None:
        _OBSERVER(name)
    for armed in (name, "*") if _ARMED else ():
        number, left = _ARMED.get(armed, (0, 0))
        if left > 1:
            _ARMED[armed] = (number, left - 1)
        elif left == 1:
            del _ARMED[armed]
            os.kill(os.getpid(), number)


@contextmanager
def effect(name: str) -> Iterator[None]:
    """Hold one effect on the outside world, with a failpoint before and after it."""
    failpoint(f"{name}.before")
    yield
    failpoint(f"{name}.after")


arm()
