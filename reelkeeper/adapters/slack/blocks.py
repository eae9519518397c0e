"""Lay out a message in Slack's Block Kit, within its limits, and without anything that Slack would read as markup.

Text that a user could have written goes into `plain_text` objects, which Slack shows as they are; text that must be
mrkdwn (the notification, a picture's comment) is escaped: & < > (Slack, "Formatting text for app surfaces").
Limits: 50 blocks, header 150, section 3,000, ten fields of 2,000, and about 13,200 characters in total, which is not
documented (bolt-js issue 2509): the parts below have at most 12,000 together. Characters are counted in UTF-16, where
an emoji has two.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from reelkeeper.adapters.second_sink import headline
from reelkeeper.model.alerts import Message, Verb, one_line, tame

MAX_HEADER, MAX_SECTION, MAX_FIELDS = 150, 3_000, 10
_MAX_NOTIFIED, _MAX_FOOTER, _MAX_FIGURES, _MAX_FIGURE, _MAX_SUGGESTION = 300, 500, 20, 150, 1_500
_MAX_CONFIRMED = 300  # characters of a confirmation's text (Block Kit, "Confirmation dialog object")
LABELS: Final = {
    Verb.ACKNOWLEDGE: "I am on it",
    Verb.SNOOZE: "Quiet for 8 hours",
    Verb.WHY: "Why?",
    Verb.APPROVE: "Approve once",
}
_ROOM_FOR_COUNT = 100  # characters, for the sentence with the number of lines left out
_ROOM_FOR_NOTE = 1_000  # shorter cuts have only an ellipsis
_CUT = " … {} characters more: reelkeeper alerts list --json"

Block = dict[str, Any]


class Layout(NamedTuple):
    """A post: `text` is for the notification, in escaped mrkdwn."""

    text: str
    blocks: list[Block]


def lay_out(message: Message, *, has_buttons: bool = False) -> Layout:
    """Lay out a message as blocks; text that does not fit is cut, with a count of the rest.

    `has_buttons`: presses reach us, so buttons are added.
    """
    title = one_line(headline(message))
    figures = [_cut(f"{one_line(label)}\n{one_line(value)}".strip(), _MAX_FIGURE) for label, value in message.figures]
    fields = [_plain(figure) for figure in figures if figure][:_MAX_FIGURES]
    advice = f"What to do: {message.suggestion}" if message.suggestion else ""
    blocks: list[Block] = [{"type": "header", "text": _plain(_cut(title, MAX_HEADER))}]
    blocks += _section(_cut(tame(message.text), MAX_SECTION))
    blocks += [{"type": "section", "fields": row} for row in (fields[:MAX_FIELDS], fields[MAX_FIELDS:]) if row]
    blocks += [*_section(_cut(tame(advice), _MAX_SUGGESTION)), *_section(_lines(message.lines))]
    if footer := _cut(tame(message.footer), _MAX_FOOTER).strip():
        blocks.append({"type": "context", "elements": [_plain(footer)]})
    if buttons := [*_links(message), *(_buttons(message) if has_buttons else ())]:
        blocks.append({"type": "actions", "elements": buttons})
    return Layout(escape(_cut(title, _MAX_NOTIFIED), _MAX_NOTIFIED), blocks)


def escape(text: str, most: int) -> str:
    """Escape text for mrkdwn, in at most `most` characters."""
    safe = "".join(_ESCAPES.get(character, character) for character in text)
    while length(safe) > most:  # rare: only for text that is mostly & < >
        text = text[: len(text) * 9 // 10]
        safe = "".join(_ESCAPES.get(character, character) for character in text)
    return safe


# guard alerts.inert: a user's name mentions everybody in the channel
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def length(text: str) -> int:
    """Count characters in UTF-16, as Slack may do."""
    return len(text) + sum(character > "\uffff" for character in text)


def _cut(text: str, most: int) -> str:
    """Return `text` in at most `most` characters; a long one with a count of the rest."""
    if length(text) <= most:
        return text
    note = _CUT if most >= _ROOM_FOR_NOTE else "…"
    kept = _first(text, most - length(note.format(f"{len(text):,}")))
    return kept + note.format(f"{len(text) - len(kept):,}")


def _first(text: str, most: int) -> str:
    kept = text[: max(most, 0)]
    while length(kept) > most > 0:
        kept = kept[: len(kept) - (length(kept) - most + 1) // 2]
    return kept


def _links(message: Message) -> Iterator[Block]:
    if message.link:
        yield {"type": "button", "text": _plain("Show the run"), "url": message.link}


def _buttons(message: Message) -> Iterator[Block]:
    """Return the buttons of an alert; their values identify the alert in the state that the message shows."""
    if not message.alert_id or message.fired_at is None:
        return
    value = f"{message.alert_id} {message.fired_at.isoformat()} {message.plan_id}".strip()
    verbs = [verb for verb in Verb if verb is not Verb.APPROVE or message.plan_id]
    for verb in verbs:
        button = {"type": "button", "action_id": verb.value, "value": value, "text": _plain(LABELS[verb])}
        yield button | ({"style": "danger", "confirm": _confirm(message)} if verb is Verb.APPROVE else {})


def _confirm(message: Message) -> Block:
    labels = {"title": "Approve this plan for one run?", "confirm": "Approve", "deny": "Cancel"}
    text = _plain(_first(one_line(message.title), _MAX_CONFIRMED))
    return {name: _plain(words) for name, words in labels.items()} | {"text": text}


def _lines(lines: Sequence[str]) -> str:
    """Join the lines of a digest; those that do not fit are counted."""
    kept, left = list[str](), MAX_SECTION - _ROOM_FOR_COUNT
    for number, line in enumerate(lines):
        kept.append(f"• {one_line(line)}")
        left -= length(kept[-1]) + 1
        if left < 0:
            kept[-1] = f"… {len(lines) - number:,} more: reelkeeper alerts list"
            break
    return "\n".join(kept)


def _section(text: str) -> Iterator[Block]:
    if text.strip():
        yield {"type": "section", "text": _plain(text)}


def _plain(text: str) -> Block:
    return {"type": "plain_text", "text": text, "emoji": False}
