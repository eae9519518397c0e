"""The events that webhooks are told of, from the code that tells them."""

from docs.generated import tables
from reelkeeper.rules.alerts.webhooks import MEANS


def table(_argument: str = "") -> str:
    """List each event and what it says."""
    return tables.table(("type", "what happened"), [(f"`{event}`", f"{means}.") for event, means in MEANS.items()])
