"""Change Python code in one place: comparisons, conditions, arithmetic, units, statements, fields and results."""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

_BOUNDARY: Final = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
_OPPOSITES: Final = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_NEGATED: Final = {ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<"} | _OPPOSITES
_NEGATED.update({ast.In: "not in", ast.NotIn: "in"})
_ARITHMETIC: Final = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*"}
_UNITS: Final = {"days": "hours", "hours": "minutes", "minutes": "seconds", "seconds": "minutes"}  # of a timedelta
_TIMES: Final = ("SECONDS", "MINUTES", "HOURS", "DAYS", "TIMEOUT", "PERCENT", "AFTER", "_AGE")  # in names of constants
_TUNINGS: Final = ("_BATCH", "_AT_ONCE", "_PARALLEL")  # how much at once, never what: nobody was promised it
_CONDITIONS: Final = ("where", "and_", "or_", "filter", "all_")  # their arguments are conditions
_FIELDS: Final = ("values", "replace", "update", "model_copy")  # their keywords are fields
_SPOKEN: Final = ("debug", "info", "warning", "error", "exception", "write", "echo", "print", "log")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed place: `key` names it wherever its line moves; `lines` are those of the statement around it."""

    key: str
    path: str
    lines: range
    place: tuple[int, int]  # of the change, in bytes
    text: str
    names: tuple[str, ...] = ()  # the constants or fields of classes that it changes


def mutants(path: str, source: str) -> list[Mutant]:
    """Return all mutants of a module's text, in the order of the text."""
    raw, found = source.encode(), []
    numbers: Counter[str] = Counter()
    for place in sorted(_Places(source).found, key=lambda place: (place.begin, place.end)):
        if raw[place.begin : place.end].decode() == place.instead:
            continue
        changed = (raw[: place.begin] + place.instead.encode() + raw[place.end :]).decode()
        was = " ".join(raw[place.begin : place.end].decode().strip(", \n").split())
        key = f"{path}::{place.scope}: {was} -> {' '.join(place.instead.split()) or 'nothing'}"
        numbers[key] += 1
        number = f" #{numbers[key]}" if numbers[key] > 1 else ""
        found.append(Mutant(key + number, path, place.lines, (place.begin, place.end), changed, place.names))
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    scope: str
    lines: range
    begin: int
    end: int
    instead: str
    names: tuple[str, ...]


class _Places(ast.NodeVisitor):
    """Walks a module; annotations, messages of errors, decorators and texts are left as they are."""

    def __init__(self, source: str) -> None:
        self.found: list[_Place] = []
        self._raw = source.encode()
        self._starts = [0, *accumulate(len(line) for line in self._raw.splitlines(keepends=True))]
        self._scope: list[str] = []
        self._returns = ""
        self._names: tuple[str, ...] = ()
        self._lines = range(0)
        self._functions = 0  # around this place
        self._body(ast.parse(source).body)

    def _body(self, statements: Iterable[ast.stmt]) -> None:
        for one in statements:
            first = getattr(one, "body", None)  # of a compound statement, its head
            end = first[0].lineno if isinstance(first, list) and first[0].lineno > one.lineno else one.end_lineno
            self._lines = range(one.lineno, (end or one.lineno) + (not isinstance(first, list)))
            self.visit(one)

    def _add(self, node: ast.expr | ast.stmt, instead: str) -> None:
        self._put(*self._span(node), instead)

    def _put(self, begin: int, end: int, instead: str) -> None:
        scope = ".".join([*self._scope, *self._names]) or "module"
        self.found.append(_Place(scope, self._lines, begin, end, instead, self._names))

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        """Return where a node begins and ends, in bytes."""
        assert node.end_lineno
        assert node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        begin, end = self._span(node)
        return self._raw[begin:end].decode()

    def generic_visit(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                lines = self._lines
                self._body(value)
                self._lines = lines
            else:
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, ast.AST):
                        self.visit(one)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self._returns = self._returns, ast.unparse(node.returns) if node.returns else ""
        self._functions += 1
        self._scope.append(node.name)
        self._body(node.body)
        self._scope.pop()
        self._functions -= 1
        self._returns = before

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  ast's name

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        self._body(node.body)
        self._scope.pop()

    def visit_Raise(self, node: ast.AST) -> None:
        """What an error says is no promise."""

    visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = visit_Raise  # noqa: N815  ast's names

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self._assigned([node.target], node.value, node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assigned(node.targets, node.value, node)

    def _assigned(self, targets: list[ast.expr], value: ast.expr, node: ast.stmt) -> None:
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets) and self._functions:
            self._add(node, "pass")
        names = tuple(one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
        if self._functions:
            self.visit(value)
            return
        if names and all(name in _TUNINGS for name in names):
            return
        self._names = names
        for one in value.elts if isinstance(value, ast.Tuple) else [value]:
            is_time = isinstance(one, ast.Call) and _name(one) == "timedelta"
            is_number = isinstance(one, ast.BinOp) or (
                isinstance(one, ast.Constant) and isinstance(one.value, int | float)
            )
            if is_time or (is_number and any(time in name for name in names for time in _TIMES)):
                self._add(one, f"({self._text(one)}) * 60")
                self._add(one, f"({self._text(one)}) / 60")
        self.visit(value)
        self._names = ()

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call) or _name(call) in _SPOKEN:
            return
        self._add(node, "pass")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        text, empty = self._text(node.value), isinstance(node.value, ast.Constant) and node.value.value is None
        if self._returns == "bool":
            self._add(node.value, f"not ({text})")
        elif self._returns in {"int", "float"}:
            self._add(node.value, f"({text}) + 1")
        elif self._returns.endswith("| None") and not empty:
            self._add(node.value, "None")
        elif self._returns.startswith(("list[", "tuple[", "dict[", "set[")) and "..." not in text:
            kinds = {"l": "[]", "t": "()", "d": "{}", "s": "set()"}
            if not self._returns.startswith("tuple[") or self._returns.endswith("...]"):
                self._add(node.value, kinds[self._returns[0]])
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        self._add(node.test, "False")
        if node.orelse:
            self._add(node.test, "True")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            left, right, kind = self._text(node.left), self._text(node.comparators[0]), type(node.ops[0])
            for table in (_BOUNDARY, _NEGATED):
                if kind in table:
                    self._add(node, f"{left} {table[kind]} {right}")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._add(condition, "True")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = " or " if isinstance(node.op, ast.And) else " and "
        self._add(node, f"({other.join(f'({self._text(one)})' for one in node.values)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.Invert):
            self._add(node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = [one for one in (node.left, node.right) if isinstance(one, ast.JoinedStr) or _is_text(one)]
        if type(node.op) in _ARITHMETIC and not texts:
            left, right = self._text(node.left), self._text(node.right)
            self._add(node, f"({left}) {_ARITHMETIC[type(node.op)]} ({right})")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node)
        if name in _SPOKEN:
            return
        if name in _CONDITIONS:
            for one in node.args if len(node.args) > 1 or name == "where" else []:
                if not isinstance(one, ast.Starred):
                    self._add(one, "sa.false()" if name == "or_" else "sa.true()")
        for at, keyword in enumerate(node.keywords):
            begin, end = self._span(keyword)
            if name == "timedelta" and keyword.arg in _UNITS:
                self._put(begin, begin + len(keyword.arg), _UNITS[keyword.arg])
            elif name in _FIELDS and keyword.arg and len(node.keywords) > 1:
                others = node.keywords[at + 1 :]
                first = begin if others else self._span(node.keywords[at - 1])[1]
                self._put(first, self._span(others[0])[0] if others else end, "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif isinstance(node.value, int):
            self._add(node, str(node.value + 1))


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def valid(candidates: Iterable[Mutant]) -> Iterator[Mutant]:
    """Leave out what is no Python, such as an update without fields."""
    for one in candidates:
        try:
            ast.parse(one.text)
        except SyntaxError:
            continue
        yield one
