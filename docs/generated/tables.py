"""Tables in Markdown, and how a value of a JSON schema is put into words."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from reelkeeper.model.ids import MAX_CHARACTERS, PATTERN

_BOUNDS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "pattern": "like `{}`",
}
_KINDS: Final = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "yes or no",
    "null": "null",
    "object": "object",
}
_TEXTS: Final = {  # by JSON schema's format
    "date-time": "moment with its time zone",
    "date": "day",
    "path": "path",
    "directory-path": "folder that is there",
    "password": "secret",
    "id": "id",
}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar or a line end inside a cell does no harm."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(value: object) -> str:
    """Return a value as it is written in JSON, or text as it is."""
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return f"`{json.dumps(value, default=str)}`"


def kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say what a value is, with its bounds: `whole number, at least 0`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = definitions.get(name, {})
        return kind(found, definitions) if "enum" in found or "const" in found else f"`{name}`"
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return ", ".join(f"`{choice}`" for choice in choices)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind(item, definitions) for item in schema[several]))
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        return f"list of {kind(items, definitions)}" if items else "list"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind(schema['additionalProperties'], definitions)}"
    if schema.get("pattern") == PATTERN:
        schema = {"format": "id", "maxLength": MAX_CHARACTERS}
    named = _TEXTS.get(schema.get("format", ""), _KINDS.get(schema.get("type", ""), "anything"))
    bounds = [said.format(_plain(schema[key])) for key, said in _BOUNDS.items() if key in schema]
    return ", ".join([named, *bounds])


def _plain(bound: object) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:,g}" if isinstance(bound, float) else str(bound)
