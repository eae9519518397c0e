"""Find and replace the ids of an erased user and of the user's videos in texts and JSON. Pure.

An id may be a common word, or a number. So in texts it counts only in certain contexts (`user ann`, `user:ann`,
`videos/ann/…`), or anywhere in a sentence if it is longer than two characters and not a number; and in JSON also as the
whole value of a field that holds ids or a reason. A reason is a sentence even if it is one word.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_TOKEN: Final = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_BEFORE: Final = re.compile(r"(?:\b(?:user|video)s?[ :=/]+['\"]?|/)$", re.IGNORECASE)
_FIELDS: Final = frozenset({"user", "user_id", "video", "video_id", "because_of", "subject", "id"})
_REASONS: Final = frozenset(
    {"reason", "retire_reason", "refused_reason", "outcome_reason", "refusal", "error", "frozen_reason"}
    | {"approval_reason", "disabled_reason", "last_error", "note"}
)
_LEAST: Final = 3  # characters of an id that counts without context
_BACK: Final = 12  # characters before an id that are checked


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The ids of a user and of the user's videos, and the pseudonym that takes their place."""

    user_id: str
    video_ids: frozenset[str]
    pseudonym: str

    def cleaned(self, value: Any, field: str = "") -> Any:  # noqa: ANN401  what JSON holds
        """Replace the ids in a JSON value; a value without any is returned equal."""
        if isinstance(value, Mapping):
            return {self._text(name, ""): self.cleaned(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.cleaned(item, field) for item in value]
        return self._text(value, field) if isinstance(value, str) else value

    def are_in(self, value: Any) -> bool:  # noqa: ANN401  the same
        """Return whether a JSON value contains one of the ids."""
        return bool(self.cleaned(value) != value)

    def _text(self, text: str, field: str) -> str:
        if field in _FIELDS | _REASONS and self._is_one(text):
            return self.pseudonym
        is_sentence = field in _REASONS or any(character.isspace() for character in text)
        return _TOKEN.sub(lambda found: self.pseudonym if self._is_named(text, found, is_sentence) else found[0], text)

    def _is_named(self, text: str, found: re.Match[str], is_sentence: bool) -> bool:
        token, start = found[0], found.start()
        if not self._is_one(token):
            return False
        if _BEFORE.search(text[max(0, start - _BACK) : start]) or text[found.end() : found.end() + 1] == "/":
            return True
        return is_sentence and len(token) >= _LEAST and not token.isdigit()

    def _is_one(self, token: str) -> bool:
        return token == self.user_id or token in self.video_ids
