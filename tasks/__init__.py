"""The steps of flows, as Prefect tasks; one module per noun. Here: what they share, and documents as artifacts."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from httpx import HTTPStatusError, TransportError
from prefect import Task, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from reelkeeper import logs
from reelkeeper.errors import StorageError
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.document import Table, as_text
from reelkeeper.operations import OperationalError, safe_to_repeat
from reelkeeper.redaction import SHOWN, unnamed

_KEYS = {"key", "video or key", "for example"}  # columns of keys
P = ParamSpec("P")
R = TypeVar("R")


def _may_pass(_task: object, _run: object, state: Any) -> bool:  # noqa: ANN401  Prefect's signature
    return isinstance(state.result(raise_on_failure=False), StorageError)


# Retries of idempotent tasks that access the bucket, for its transient failures.
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 30],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_pass,
}


def step(name: str, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:  # noqa: ANN401  Prefect's own
    """Make a task, with the name of its runs, of a unit of work that is safe to repeat where the store was away."""

    def made(unit: Callable[P, R]) -> Task[P, R]:
        return task(task_run_name=name, cache_policy=NO_CACHE, **options)(safe_to_repeat(unit))

    return made


@contextmanager
def going_on() -> Iterator[None]:
    """Go on without what is only shown, where Prefect's server or the store does not answer, or has failed.

    Prefect's server fails, for one, where two runs show an artifact of one key at once.
    """
    try:
        yield
    # guard outages.shown: a run ends because Prefect's server restarted or failed while it showed what it had done
    except (TransportError, HTTPStatusError, OperationalError) as error:
        if isinstance(error, HTTPStatusError) and not error.response.is_server_error:
            raise
        get_run_logger().warning("not shown, since there was no answer; the run goes on: %s", error)


def show(key: str, title: str, document: Iterable[str | Table], description: str | None = None) -> None:
    """Publish a document as the artifact `key` of this run."""
    with going_on():
        create_markdown_artifact(markdown(title, document), key=key, description=description)


def markdown(title: str, document: Iterable[str | Table]) -> str:
    """Render a title, paragraphs, and tables in which all text is shown literally; without users' ids."""
    parts = [f"## {title}"]
    for part in document:
        # guard secrets.paragraphs: a refused plan's worst user stands in Prefect's database, which no erasure reaches
        parts += [unnamed(part)] if isinstance(part, str) else _table(part)
    return "\n\n".join(parts)


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    if table.title:
        yield f"### {table.title}"
    rule = ["--:" if heading.startswith(">") else ":--" for heading in table.headings]
    rows = [_cells(table.headings, row) for row in (*table.rows, *([table.total] if table.total else []))]
    headings = [heading.lstrip(">!") for heading in table.headings]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def _cells(headings: Sequence[str], row: Sequence[object]) -> Iterator[str]:
    for heading, cell in zip(headings, row, strict=True):
        if heading == "user":
            yield SHOWN
        # guard secrets.keys: the key of an image names its user in Prefect's database, which no erasure reaches
        elif heading in _KEYS:
            yield _literal("\n".join(map(_without_folders, as_text(cell).split("\n"))))
        else:
            yield as_text(cell) if heading.startswith(">") else _literal(as_text(cell))


def _without_folders(key: str) -> str:
    """Leave out the folders of a key, one of which may be its user's: `unnamed` knows only keys of videos."""
    _, slash, name = key.rpartition("/")
    return f"{SHOWN}/{name}" if slash else key


def _literal(text: str) -> str:
    """Escape text that a user may have chosen, for Markdown and HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", unnamed(text)).replace("\n", ", ")


def worst_first(found: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, and those of one severity by their dollars."""
    worst = list(reversed(Severity))
    return sorted(found, key=lambda finding: (worst.index(finding.severity), -(finding.impact_microusd or 0)))


def tabulate(found: Iterable[Finding]) -> Table:
    """Tabulate findings."""
    kept = ("rule", "scope", "period", "level", "severity", "title", "text", "suggestion")
    rows = [[without_user(finding, str(getattr(finding, name))) for name in kept] for finding in found]
    return Table(kept, rows, "Findings")


def without_user(finding: Finding, text: str) -> str:
    """Remove the user's id from a finding, since Prefect must not store one."""
    kind, _, user = finding.scope.partition(":")
    return re.sub(rf"(?<![\w-]){re.escape(user)}(?![\w-])", SHOWN, text) if kind == "user" and user else unnamed(text)


def _runs() -> Mapping[str, object]:
    """Return the ids of this thread's runs, for the log lines of the library, which does not know them."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    ids: dict[str, object] = {}
    if flow and flow.flow_run:
        ids |= {"flow_run_id": flow.flow_run.id, "flow_run_name": flow.flow_run.name}
    if task:
        ids |= {"flow_run_id": task.task_run.flow_run_id, "task_run_id": task.task_run.id}
        ids["task_run_name"] = task.task_run.name
    return ids


logs.also(_runs)
