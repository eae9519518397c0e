"""As much of GraphQL as Cloudflare's analytics take: one query with variables, read into a tree of fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TOKENS = re.compile(r'\s*(?:([A-Za-z_]\w*)|(\$\w+)|(\d+(?:\.\d+)?)|"([^"]*)"|([{}()\[\]:!,=]))')


@dataclass
class Field:
    """A field as it was asked for: `alias: name(arguments) { fields }`."""

    name: str
    alias: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fields: list["Field"] = field(default_factory=list)

    def names(self) -> list[str]:
        return [item.name for item in self.fields]

    def __getitem__(self, name: str) -> "Field":
        return next(item for item in self.fields if item.name == name)


def parse(text: str, variables: Mapping[str, Any]) -> list[Field]:
    """Read a query. ValueError where it is malformed or names a variable that is not given."""
    tokens = [match for match in _TOKENS.finditer(text) if match.group().strip()]
    if "".join(match.group() for match in tokens).split() != text.split():
        raise ValueError("error parsing args")
    parser = _Parser([match.group().strip() for match in tokens], variables)
    parser.expect("query")
    if parser.next != "{":
        while parser.take() != ")":  # its name, and the types of its variables
            pass
    return parser.fields()


class _Parser:
    def __init__(self, tokens: list[str], variables: Mapping[str, Any]) -> None:
        self.tokens, self.variables, self.place = tokens, variables, 0

    @property
    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        if not self.next:
            raise ValueError("unexpected end of the query")
        self.place += 1
        return self.tokens[self.place - 1]

    def expect(self, token: str) -> None:
        if (found := self.take()) != token:
            raise ValueError(f"expected {token}, found {found}")

    def fields(self) -> list[Field]:
        self.expect("{")
        found = []
        while self.next != "}":
            alias = name = self.take()
            if self.next == ":":
                self.take()
                name = self.take()
            arguments = self.pairs("(", ")") if self.next == "(" else {}
            found.append(Field(name, alias, arguments, self.fields() if self.next == "{" else []))
        self.take()
        return found

    def pairs(self, opening: str, closing: str) -> dict[str, Any]:
        self.expect(opening)
        found = {}
        while self.next != closing:
            name = self.take()
            self.expect(":")
            found[name] = self.value()
            if self.next == ",":
                self.take()
        self.take()
        return found

    def value(self) -> Any:  # noqa: ANN401  any value of GraphQL
        if self.next == "{":
            return self.pairs("{", "}")
        if self.next == "[":
            self.take()
            found = []
            while self.next != "]":
                found.append(self.value())
                if self.next == ",":
                    self.take()
            self.take()
            return found
        token = self.take()
        if token.startswith("$"):
            if token[1:] not in self.variables:
                raise ValueError(f"variable {token} is not given")
            return self.variables[token[1:]]
        if token[0] == '"':
            return token[1:-1]
        return float(token) if token.replace(".", "").isdigit() else token
