"""Put stable marks in place of what varies by run, machine or model, so that a snapshot can hold the sentence."""

import re


def marked(text: object, **values: object) -> str:
    """Replace each value by its name, `marked(error, PORT=port)`, then ids by ID, days by DAY and times by TIME."""
    said = str(text)
    for name, value in values.items():
        said = said.replace(str(value), name)
    said = re.sub(r"(?<![0-9a-z])(?=[a-f]*\d)[0-9a-f]{12,}", "ID", said)
    said = re.sub(r"\d{4}-\d\d-\d\d", "DAY", said)
    return re.sub(r"\d\d:\d\d(:\d\d)?", "TIME", said)


def without_decimals(text: str) -> str:
    """Replace figures such as 1,311.41 by a #: the last digits of a model's are not the same on each machine."""
    return re.sub(r"\d[\d,]*\.\d+", "#", text)
