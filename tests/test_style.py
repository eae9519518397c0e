"""Rules about the source that no linter checks."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import WHY_LONG

ROOT = Path(__file__).parent.parent
SHIPPED = ("reelkeeper", "tasks", "flows", "deployments", "demo")
ROOMS = (*SHIPPED, "bench", "docs", "tests")
MAX_LINES = 400
MIN_LINES, MAX_SHORT = 60, 40  # a flow is short, and a module may be, where its name says more than a longer one's
MAX_ARGUMENTS = 7
MAX_WIDTH = 120
MAX_QUOTED = 40  # texts that tests expect to read: lower it with each that asserts a fact or a snapshot instead


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


@cache
def text(path: Path) -> str:
    return path.read_text()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path))


def calls(path: Path) -> Iterator[tuple[ast.Call, str, str]]:
    """Give each call, the name of what is called, and of what it is called on: delete, bucket for a.bucket.delete()."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node, last_name(node.func), last_name(node.func.value) if isinstance(node.func, ast.Attribute) else ""


def last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_the_style_checks_find_files() -> None:
    assert {path.parent.name for path in sources("reelkeeper")} >= {
        "reelkeeper",
        "rules",
        "store",
        "adapters",
        "operations",
    }


def test_rules_never_look_at_a_clock() -> None:
    rules = [*sources("reelkeeper/rules"), *(ROOT / "reelkeeper" / "model").glob("*.py")]
    found = [
        where(path, node.lineno)
        for path in rules
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and (node.attr in {"now", "today", "utcnow"} or (node.attr, last_name(node.value)) == ("time", "time"))
    ]
    assert not found, f"a rule takes the time as its argument as_of: {found}"


def test_no_file_is_named_for_what_does_not_fit_elsewhere() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "manager", "service", "misc"}
    found = [path for path in sources(*ROOMS) if banned & {*path.relative_to(ROOT).with_suffix("").parts}]
    assert not found


def test_files_can_be_read_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in sources(*SHIPPED, "bench")
        if text(path).count("\n") > MAX_LINES
        if path.parent.name != "versions"  # a migration is a list of statements that nobody edits again
    }
    assert not long, f"split what is longer than {MAX_LINES} lines"


def test_few_files_are_splinters() -> None:
    short = [
        str(path.relative_to(ROOT))
        for path in sources(*SHIPPED)
        if text(path).count("\n") < MIN_LINES and path.name != "__init__.py" and path.parent.name != "versions"
    ]
    assert len(short) < MAX_SHORT, f"put what is this short where it is used: {short}"


def test_a_room_can_be_seen_at_a_glance() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder in {path.parent for path in sources("reelkeeper", "flows")}
        if folder.name != "versions"  # migrations only ever become more
        if (count := len([*folder.glob("*.py")]) - 1) > (30 if folder.name in {"commands", "flows"} else 15)
    }
    assert not crowded, "split a folder of more than 15 files beside __init__, or of 30 commands or flows"


def test_functions_take_fewer_than_eight_arguments() -> None:
    crowded = {
        f"{path.relative_to(ROOT)} {node.name}"
        for path in sources(*SHIPPED)
        if path.parent.name not in {"commands", "flows"}  # forms, whose parameters are fields
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and len([argument.arg for argument in every_argument(node) if argument.arg not in {"self", "cls"}])
        > MAX_ARGUMENTS
    }
    assert not crowded, "give what goes together a name: a frozen dataclass, or one that is there"


def every_argument(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def test_sql_is_not_pasted_together() -> None:
    found = [
        where(path, call.lineno)
        for path in sources(*SHIPPED)
        for call, name, _ in calls(path)
        if name in {"text", "exec_driver_sql"} and call.args and isinstance(call.args[0], ast.JoinedStr)
        if not any(re.search(r"  # \S", line) for line in text(path).splitlines()[call.lineno - 1 : call.end_lineno])
    ]
    assert not found, f"bind parameters, or say beside it why what is pasted in is safe: {found}"


def test_only_purge_deletes_bytes() -> None:
    callers = {
        str(path.relative_to(ROOT))
        for path in sources(*SHIPPED)
        for _, name, owner in calls(path)
        if (name == "delete" and owner.strip("_").endswith("bucket"))
        or name in {"delete_object", "delete_objects", "delete_signed", "sign_deletes"}
    }
    assert callers == {
        "reelkeeper/operations/lifecycle/purge.py",
        "reelkeeper/adapters/backups.py",  # of the store, in a bucket that is not the videos'
        "reelkeeper/adapters/s3/deletes.py",  # what Bucket.delete does
        "reelkeeper/adapters/contract/scratch.py",
        "reelkeeper/adapters/contract/checks.py",  # in a scratch prefix of its own alone: contract/test_checks.py
    }


def test_the_contract_deletes_only_through_its_scratch() -> None:
    owners = {
        ast.unparse(call.func)
        for path in sources("reelkeeper/adapters/contract")
        for call, name, _ in calls(path)
        if name.startswith("delete")
    }
    assert owners == {"self.bucket.delete", "place.bucket.delete"}  # of a Scratch, which takes no other prefix


@pytest.mark.parametrize(
    ("mark", "with_reason"),
    [
        (r"#\s*noqa", r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)*  \S"),
        (r"#\s*type:\s*ignore", r"# type: ignore\[[a-z-]+(, ?[a-z-]+)*\]  # \S"),
        (r"#\s*pragma", r"# pragma: \w+( \w+)*  \S"),
    ],
    ids=["noqa", "type ignore", "pragma"],
)
def test_every_exception_gives_its_reason(mark: str, with_reason: str) -> None:
    found = [
        where(path, number)
        for path in sources(*ROOMS)
        if path != Path(__file__)
        for number, line in enumerate(text(path).splitlines(), 1)
        if re.search(mark, line) and not re.search(with_reason, line)
    ]
    assert not found, f"say why, two spaces after the code: {found}"


def test_every_lint_rule_that_is_off_gives_its_reason() -> None:
    off = re.findall(r'^ +"[A-Z]+\d*",.*$', text(ROOT / "pyproject.toml"), re.MULTILINE)
    assert len(off) > 10
    assert not [line for line in off if not re.search(r"# \S", line)]


def test_no_path_of_one_machine_is_in_the_source() -> None:
    found = [
        where(path, number)
        for path in sources(*SHIPPED, "bench")
        for number, line in enumerate(text(path).splitlines(), 1)
        if re.search(r"""["' (](/tmp|/work|/home|/root|/var)(/|["'])""", line)
    ]
    assert not found


def sentences(node: ast.AST, words: int = 4) -> Iterator[str]:
    """Give the literal texts of so many words and more in code, but those in snapshots, and docstrings."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return
        case ast.Constant(value=str(said)) if len(said.split()) >= words:
            yield said
        case ast.Call(func=ast.Name(id="snapshot")):
            return
        case _:
            yield from (text for part in ast.iter_child_nodes(node) for text in sentences(part, words))


@cache
def told() -> str:
    """Give all that the program can say in three words and more."""
    found = [said for path in sources(*SHIPPED) for said in sentences(tree(path), words=3)]
    return "\n".join(" ".join(said.split()) for said in found)


def is_quote(said: str) -> bool:
    """Whether a text is a sentence, or two words and more of one that the program says."""
    plain = " ".join(said.replace("\\", "").split())
    return len(plain.split()) >= 4 or (plain in told() and bool(re.search(rf"(?<!\w){re.escape(plain)}(?!\w)", told())))


def quoted(path: Path) -> list[str]:
    """Give the sentences that a test file expects: in its asserts, in `raises(match=...)`, and in loops and cases."""
    found = list[str]()
    for function in ast.walk(tree(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes = list(ast.walk(function))
            expected = [node.test for node in nodes if isinstance(node, ast.Assert)]
            expected += [
                word.value
                for node in nodes
                if isinstance(node, ast.Call) and last_name(node.func) == "raises"
                for word in node.keywords
                if word.arg == "match"
            ]
            names = {name for part in expected for name in names_in(part)}
            expected += [node.iter for node in nodes if isinstance(node, ast.For) and names & names_in(node.target)]
            found += [text for part in expected for text in sentences(part, words=2) if is_quote(text)]
            if function.decorator_list:
                found += [
                    text for cell in cases(function, names) for text in sentences(cell, words=2) if is_quote(text)
                ]
    return found


def names_in(expression: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def cases(function: ast.FunctionDef | ast.AsyncFunctionDef, names: set[str]) -> Iterator[ast.expr]:
    """Give the values that `parametrize` has for these parameters of a test."""
    for mark in function.decorator_list:
        match mark:
            case ast.Call(args=[ast.Tuple() as parameters, ast.List() as rows]) if (
                last_name(mark.func) == "parametrize"
            ):
                for row in rows.elts:
                    cells = row.args if isinstance(row, ast.Call) else row.elts if isinstance(row, ast.Tuple) else []
                    for parameter, cell in zip(parameters.elts, cells, strict=False):
                        if isinstance(parameter, ast.Constant) and parameter.value in names:
                            yield cell
            case ast.Call(args=[ast.Constant(value=name), ast.List() as rows]) if last_name(mark.func) == "parametrize":
                yield from rows.elts if name in names else []
            case _:
                pass


def test_fewer_and_fewer_tests_quote_what_a_person_reads() -> None:
    counts = {path: len(quoted(path)) for path in sources("tests") if path.name.startswith("test_")}
    most = sorted(counts, key=lambda path: -counts[path])[:5]
    assert sum(counts.values()) <= MAX_QUOTED, [f"{path.relative_to(ROOT)}: {counts[path]}" for path in most]


def test_every_long_test_says_why_it_is_slow() -> None:
    silent = {
        str(path.relative_to(ROOT))
        for path in sources("tests")
        for own in [{id(call.func) for call, name, _ in calls(path) if name == "long" and call.args}]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and (node.attr, last_name(node.value)) == ("long", "mark")
        if id(node) not in own
    }
    explained = {place for place in WHY_LONG if any(path.startswith(place) for path in silent)}
    assert explained == {*WHY_LONG}, "what explains nothing goes"
    assert not {path for path in silent if not path.startswith(tuple(WHY_LONG))}, "give the mark a reason"


def test_only_snapshots_are_wider_than_the_page() -> None:
    """Ruff formats all code but strings, and `make snapshots` writes a sentence on one line."""
    wide = {
        (path, number)
        for path in sources("tests")
        for number, line in enumerate(text(path).splitlines(), 1)
        if len(re.sub(r"  # (noqa|type: ignore).*", "", line)) > MAX_WIDTH
    }
    in_snapshots = {
        (path, number)
        for path in {path for path, _ in wide}
        for call, name, _ in calls(path)
        if name == "snapshot"
        for number in range(call.lineno, (call.end_lineno or call.lineno) + 1)
    }
    assert not sorted(where(path, number) for path, number in wide - in_snapshots)


def test_a_quoted_sentence_is_found(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(
        '@pytest.mark.parametrize(("given", "said"), [("five six seven eight", "one two three four")])\n'
        'def test_it(given, said):\n    assert "one two three four" in said, "a reason of four words"\n'
        '    with pytest.raises(ValueError, match="one two three four"):\n        call("one two three four")\n'
        '    assert said == ["one two three", 4]\n    assert said == snapshot("one two three four")\n'
        f'    for word in ("one", "one two three four"):\n        assert word in said\n'
        f'    assert "{" ".join(told().split()[:2])}" in said\n'
    )
    assert len(quoted(path)) == 5
