"""Pictures: drawn from the store into artifacts that a person looks at, with their words and figures."""

from collections.abc import Sequence
from datetime import datetime

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from reelkeeper.adapters import charts
from reelkeeper.operations import Engine
from reelkeeper.operations.reports import figures, tables, text
from reelkeeper.operations.reports.report import gather
from reelkeeper.rules.spend.budget import BudgetPolicy

# What each picture says, draws and lists.
_PICTURES = {
    "spend": ("Spend by service and day", text.spend, figures.spend, tables.bill),
    "forecast": ("Where the month is going", text.month, figures.month, tables.months),
}


@task(task_run_name="draw the {name}", cache_policy=NO_CACHE)
def show(engine: Engine, name: str, as_of: datetime, budgets: BudgetPolicy) -> None:
    """Publish the picture `name` (spend, forecast) of the month of `as_of` as an artifact of that name."""
    heading, say, draw, listed = _PICTURES[name]
    report = gather(engine, as_of.date().replace(day=1), as_of, budgets)
    picture = f"![{heading}]({charts.data_uri(charts.svg(draw(report)))})"
    text = "\n\n".join([f"## {heading}, {report.month:%B %Y}", say(report), picture, *_table(listed(report))])
    create_markdown_artifact(text, key=name, description=f"{heading}, as of {as_of:%Y-%m-%d %H:%M} UTC")


def _table(table: tables.Table) -> list[str]:
    if not table.rows:
        return []
    rule = [":--", *("--:" for _ in table.headings[1:])]
    rows = [*table.rows, table.total] if table.total else table.rows
    return ["\n".join(_row(cells) for cells in (table.headings, rule, *rows))]


def _row(cells: Sequence[str]) -> str:
    """Write one row; what has a sign of Markdown's is not taken for one."""
    tame = (cell.replace("\n", ", ").replace("\\", r"\\").replace("|", r"\|").replace("`", r"\`") for cell in cells)
    return f"| {' | '.join(tame)} |"
