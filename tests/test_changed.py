"""Which tests a change concerns: those that import it, however far, and those whose fixtures do."""

from pathlib import Path

import pytest

from tests.changed import ROOT, Graph

TREE = {
    "reelkeeper/__init__.py": "",
    "reelkeeper/rule.py": "LIMIT = 3\n",
    "reelkeeper/deed.py": "def do():\n    from reelkeeper.rule import LIMIT\n",
    "reelkeeper/other.py": "",
    "tests/conftest.py": 'pytest_plugins = ["tests.shop"]\n',
    "tests/shop.py": "import pytest\nfrom reelkeeper import other\n\n@pytest.fixture\ndef shop():\n    pass\n",
    "tests/room/conftest.py": "",
    "tests/room/test_deed.py": "from reelkeeper import deed\n",
    "tests/room/test_shop.py": "def test_it(shop):\n    pass\n",
    "tests/room/test_pages.py": 'PAGES = "docs"\n',
}


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Graph(tmp_path)


@pytest.mark.parametrize(
    ("changed", "concerned"),
    [
        ("reelkeeper/rule.py", {"deed"}),
        ("reelkeeper/other.py", {"shop"}),
        ("tests/shop.py", {"shop"}),
        ("tests/room/test_deed.py", {"deed"}),
        ("docs/jobs.md", {"pages"}),
        ("README.md", set[str]()),
        ("tests/room/conftest.py", {"deed", "shop", "pages"}),
        ("reelkeeper/__init__.py", {"deed", "shop"}),
        ("pyproject.toml", {"deed", "shop", "pages"}),
    ],
)
def test_a_change_concerns_whatever_depends_on_it(graph: Graph, changed: str, concerned: set[str]) -> None:
    assert graph.tests_of({changed}) == {f"tests/room/test_{name}.py" for name in concerned}


@pytest.mark.long("it parses all thousand files")
def test_a_chart_concerns_few_and_the_schema_all_that_have_a_store() -> None:
    graph = Graph(ROOT)
    few, many = (
        len(graph.tests_of({f"reelkeeper/{name}.py"}))
        for name in ("adapters/charts/theme", "store/migrations/versions/0001_first_tables")
    )
    assert 0 < 2 * few < many
