"""Where a text, or a document, names a user who is to be erased, or a video of theirs. Pure.

An id may be a common word, or a number. So in texts it is one only where the words around it say so (`user ann`,
`user:ann`, `videos/ann/…`), or in a sentence, if it is longer than two characters and no number; and in documents
also as the whole value of a field that holds ids.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_TOKEN: Final = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_BEFORE: Final = re.compile(r"(?:\b(?:user|video)s?[ :=/]+['\"]?|/)$", re.IGNORECASE)
_FIELDS: Final = frozenset({"user", "user_id", "video", "video_id", "because_of", "subject", "id"})
_LEAST: Final = 3  # characters of an id that names somebody by itself
_BACK: Final = 12  # characters before an id that are looked at


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The ids of a user and of the user's videos, and the pseudonym that takes their place."""

    user_id: str
    video_ids: frozenset[str]
    pseudonym: str

    def cleaned(self, value: Any, field: str = "") -> Any:  # noqa: ANN401  what JSON holds
        """Give a value of JSON with each of the ids replaced; one that names none is equal to what was given."""
        if isinstance(value, Mapping):
            return {self._text(name, ""): self.cleaned(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.cleaned(item, field) for item in value]
        return self._text(value, field) if isinstance(value, str) else value

    def are_in(self, value: Any) -> bool:  # noqa: ANN401  the same
        """Say whether a value of JSON names one of them."""
        return bool(self.cleaned(value) != value)

    def _text(self, text: str, field: str) -> str:
        if field in _FIELDS and self._is_one(text):
            return self.pseudonym
        return _TOKEN.sub(lambda found: self.pseudonym if self._is_named(text, found) else found[0], text)

    def _is_named(self, text: str, found: re.Match[str]) -> bool:
        token, start = found[0], found.start()
        if not self._is_one(token):
            return False
        if _BEFORE.search(text[max(0, start - _BACK) : start]) or text[found.end() : found.end() + 1] == "/":
            return True
        is_sentence = any(character.isspace() for character in text)
        return is_sentence and len(token) >= _LEAST and not token.isdigit()

    def _is_one(self, token: str) -> bool:
        return token == self.user_id or token in self.video_ids
