"""Find and replace the ids of an erased user and of the user's videos in texts and JSON. Pure.

An id may be a common word, a number, or have any characters. So in texts it counts only in certain contexts (`user
ann`, `user:ann`, `videos/ann/…`), or anywhere in a sentence if it is longer than two characters and not a number; in
JSON also as the whole value of a field that holds ids or a reason. A reason is a sentence even if it is one word.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

# Letters, digits and marks of all scripts: what is not white space, ASCII punctuation, or common punctuation beyond it.
_IN_A_WORD: Final = r"[^\s\x00-,./:-@\[-^`{-\x7f\xa1-\xbf\u2010-\u206f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20]"
_TOKEN: Final = re.compile(rf"{_IN_A_WORD}+(?:\.{_IN_A_WORD}+)*")
_JOINED_BEFORE: Final = re.compile(rf"{_IN_A_WORD}(?:[@+|%]|\.)?$")
_JOINED_AFTER: Final = re.compile(rf"(?:[@+|%]|\.)?{_IN_A_WORD}")
_LETTER: Final = re.compile(_IN_A_WORD)
_BEFORE: Final = re.compile(r"(?:\b(?:user|video)s?[ :=/]+['\"]?|/)$", re.IGNORECASE)
_FIELDS: Final = frozenset({"user", "user_id", "video", "video_id", "because_of", "subject", "id"})
_REASONS: Final = frozenset(
    {"reason", "retire_reason", "refused_reason", "outcome_reason", "refusal", "error", "frozen_reason"}
    | {"approval_reason", "disabled_reason", "last_error", "note"}
)
_POLICIES: Final = frozenset({"document", "changes"})  # fields with policies, or a part of them
_LEAST: Final = 3  # characters of an id that counts without context
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_.~/-]")  # RFC 3986, 2.3
_BACK: Final = 12  # characters before an id that are checked
_SCOPE: Final = "user:"


@dataclass(frozen=True)
class Identifiers:
    """The ids of a user and of the user's videos, in each form that a text may have, and the pseudonym for all.

    Those in `only_whole` count only as the whole value of a field of ids.
    """

    user: frozenset[str]
    videos: frozenset[str]
    pseudonym: str
    only_whole: frozenset[str] = frozenset()

    @cached_property
    def ids(self) -> frozenset[str]:
        """List all that count in texts."""
        return self.user | self.videos

    @cached_property
    def of_user(self) -> "Identifiers":
        """Return those to look for in the records of other users, where a video's id may be a word of their own."""
        return Identifiers(self.user, frozenset(), self.pseudonym, only_whole=self.videos)

    @cached_property
    def forms(self) -> frozenset[str]:
        """List the ids, and how Python, JSON, a shell and URLs write them."""
        found = set(self.ids)
        for name in self.ids:
            path = _UNSAFE.sub(lambda byte: b"%%%02X" % byte[0][0], name.encode()).decode()
            quoted = name.replace("'", "'\"'\"'")
            found |= {repr(name)[1:-1], json.dumps(name)[1:-1], quoted, path, path.replace("/", "%2F")}
        return frozenset(found)

    @cached_property
    def _odd(self) -> dict[str, list[tuple[int, str]]]:
        """Find the forms that are not one token, the longest first, by their first token: at which place it is in each.

        Those without a token are under "".
        """
        found = defaultdict[str, list[tuple[int, str]]](list)
        for form in sorted(self.forms, key=len, reverse=True):
            if not _TOKEN.fullmatch(form):
                first = _TOKEN.search(form)
                found[first[0] if first else ""].append((first.start() if first else 0, form))
        return dict(found)

    def cleaned(self, value: Any, field: str = "") -> Any:  # noqa: ANN401  what JSON holds
        """Replace the ids in a JSON value; a value without any is returned equal.

        Of policies, only in scopes such as `user:ann`: their other texts name models, tags and sources.
        """
        if isinstance(value, Mapping):
            # guard ids.policies: erasing a user called `fast` takes `fal-ai/veo3.1/fast` out of the catalogue in force
            around = field if field in _POLICIES else ""
            return {self._text(name, around): self.cleaned(item, around or name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.cleaned(item, field) for item in value]
        return self._text(value, field) if isinstance(value, str) else value

    def are_in(self, value: Any) -> bool:  # noqa: ANN401  the same
        """Return whether a JSON value contains one of the ids."""
        return bool(self.cleaned(value) != value)

    def are_in_anothers(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record of another user contains one. The key of an object names only whose it is."""
        return self.of_user.are_in({name: item for name, item in record.items() if name != "key"})

    def _text(self, text: str, field: str) -> str:
        if (field in _FIELDS | _REASONS and text in self.forms) or (field in _FIELDS and text in self.only_whole):
            return self.pseudonym
        # guard ids.models: erasing a user called `google` empties what is recorded of `google/veo-3.1`
        if field == "model":
            return text
        is_sentence = field in _REASONS or any(character.isspace() for character in text)
        spans = list(self._spans(text))
        parts, end = list[str](), 0
        for start, stop in sorted(spans, key=lambda span: (span[0], -span[1])):
            counts = text.endswith(_SCOPE, 0, start) if field in _POLICIES else _counts(text, start, stop, is_sentence)
            if start >= end and counts:
                parts += text[end:start], self.pseudonym
                end = stop
        return "".join(parts) + text[end:] if parts else text

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Find the ids in a text that are not a part of something longer."""
        for found in _TOKEN.finditer(text):
            if found[0] in self.forms and not _is_joined(text, *found.span()):
                yield found.span()
            for place, form in self._odd.get(found[0], ()):
                start, stop = found.start() - place, found.start() - place + len(form)
                if start >= 0 and text.startswith(form, start) and not _is_joined(text, start, stop):
                    yield start, stop
        for _, form in self._odd.get("", ()):
            start = text.find(form)
            while start >= 0:
                yield start, start + len(form)
                start = text.find(form, start + len(form))


def _is_joined(text: str, start: int, stop: int) -> bool:
    """Check whether a form is only a part of something longer: of a word, or of a name such as `ann@example.com`."""
    # guard ids.whole: erasing `ann` takes her name from what is said of `ann@example.com`, who is somebody else
    return bool(_JOINED_BEFORE.search(text, max(0, start - 3), start) and _LETTER.match(text, start)) or bool(
        _LETTER.match(text, stop - 1, stop) and _JOINED_AFTER.match(text, stop)
    )


def _counts(text: str, start: int, stop: int, is_sentence: bool) -> bool:
    """Check whether an id at this place is meant as one."""
    if _BEFORE.search(text[max(0, start - _BACK) : start]) or text[stop : stop + 1] == "/":
        return True
    return is_sentence and stop - start >= _LEAST and not text[start:stop].isdigit()
