"""A message as plain text, for a terminal, a webhook, or a notification."""

from reelkeeper.model.alerts import Message, MessageKind, Severity
from reelkeeper.model.plaintext import one_line, tame

_MARKS = {Severity.CRITICAL: "🔴 Critical", Severity.WARNING: "🟠 Warning", Severity.NOTICE: "🔵 Notice"}


def headline(message: Message) -> str:
    """Give the title, with a mark that says how soon somebody should look."""
    title = one_line(message.title) or "Untitled"
    if message.kind == MessageKind.RESOLVE:
        return f"🟢 {title}"
    return f"{_MARKS[message.severity]}: {title}" if message.severity else title


def as_text(message: Message) -> str:
    """Give all that a message says, without markup; control characters are gone, so a terminal shows it as it is."""
    parts = [
        headline(message),
        message.text,
        "\n".join(f"{label}: {value}" for label, value in message.figures),
        f"What to do: {message.suggestion}" if message.suggestion else "",
        "\n".join(f"- {line}" for line in message.lines),
        message.footer,
        f"The run: {message.link}" if message.link else "",
    ]
    return tame("\n".join(part for part in parts if part))
