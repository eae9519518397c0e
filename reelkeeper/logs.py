"""Lines of JSON for a log collector, each with the ids of what it belongs to, and no secret of ours in any.

with bound(job_id="j1"): ...                 # every line of this thread has this id, whichever library writes it

Functions registered with `also` add ids to each line, such as that of Prefect's run. REELKEEPER_LOG_FORMAT=json puts
`Stream` on the root logger: by deployments/logging.yml in Prefect's processes, by `configure` in all others.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TextIO

from reelkeeper.redaction import redacted

IDS: Final = (  # as records of Prefect's own loggers call them, and ours
    *("flow_run_id", "flow_run_name", "flow_name", "task_run_id", "task_run_name", "worker_name"),
    *("run_id", "request_id", "job_id", "video_id"),
)
Ids = Mapping[str, object]

_bound: ContextVar[dict[str, str]] = ContextVar("ids of a log line", default={})  # noqa: B039  never changed in place
_id_sources: list[Callable[[], Ids]] = []


@contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Add these ids to each line that is logged within."""
    token = _bound.set(_bound.get() | ids)
    try:
        yield
    finally:
        _bound.reset(token)


def bind(**ids: str) -> None:
    """Add these ids to each line from now on, to the end of this process or thread."""
    _bound.set(_bound.get() | ids)


def also(ids_of: Callable[[], Ids]) -> None:
    """Call `ids_of` for further ids at each line."""
    if ids_of not in _id_sources:
        _id_sources.append(ids_of)


class Lines(logging.Formatter):
    """Writes a record as one line of JSON: time, level, logger, message, ids, and what was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """Write it."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for ids in (*(ids_of() for ids_of in _id_sources), _bound.get(), vars(record)):
            line |= {name: str(ids[name]) for name in IDS if ids.get(name)}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["error"] = record.exc_text
        # guard secrets.lines: an id, or a secret that a handler adds, stands in a log
        return redacted(json.dumps(line, ensure_ascii=False))


class Stream(logging.StreamHandler[TextIO]):
    """The handler: stderr, also for warnings and uncaught exceptions."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(Lines())
        logging.captureWarnings(capture=True)
        sys.excepthook = _uncaught
        threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def configure(level: str) -> None:
    """Log as lines of JSON in this process, unless it does already."""
    root = logging.getLogger()
    if not any(isinstance(handler, Stream) for handler in root.handlers):
        root.addHandler(Stream())
        logging.getLogger("reelkeeper").setLevel(level)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger("reelkeeper").critical("not caught: %s", error, exc_info=(kind, error, trace))
