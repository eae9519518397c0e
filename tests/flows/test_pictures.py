"""Charts as artifacts: embedded in Markdown, with text and figures."""

from typing import Any

import pytest
import sqlalchemy as sa
from prefect import flow
from prefect.artifacts import Artifact

from reelkeeper.rules.spend.budget import BudgetPolicy
from tasks import reports
from tests.operations import months


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "said"),
    [("spend", "13 November"), ("forecast", "$204.00")],
)
def test_an_artifact_holds_picture_words_and_figures(
    prefect_server: None,  # noqa: ARG001  it must be up
    sqlite_engine: sa.Engine,
    name: str,
    said: str,
) -> None:
    months.fill(sqlite_engine)

    @flow
    def draw() -> None:
        reports.show_picture(sqlite_engine, name, months.NOW, BudgetPolicy())

    draw()
    drawn: Any = Artifact.get(name)  # waits for it, as nothing else runs here
    text = str(drawn.data)
    assert said in text
    assert "](data:image/svg+xml;base64," in text
    assert "| :-- |" in text
    minute = f"{months.NOW:%Y-%m-%d %H:%M}"
    assert minute in str(drawn.description)
