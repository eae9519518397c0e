"""Compare the catalogue with what vendors and LiteLLM's table publish. Changes nothing."""

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

from reelkeeper.adapters import litellm_table
from reelkeeper.adapters.litellm_table import Table
from reelkeeper.adapters.providers.contract import PriceList
from reelkeeper.errors import GenerationUnknown
from reelkeeper.model.money import Published
from reelkeeper.rules.billing.published import Compared, compare
from reelkeeper.rules.billing.quote import PriceBook


class Checked(NamedTuple):
    """The models that somebody publishes something of, the others, and the vendors that did not answer, with why."""

    compared: tuple[Compared, ...]
    unpublished: tuple[tuple[str, str], ...]  # a model and its provider
    unreachable: Mapping[str, str]

    @property
    def differing(self) -> list[Compared]:
        """The models whose entries are to be changed, or looked up by a person."""
        return [item for item in self.compared if item.differs]


def check(
    book: PriceBook, vendors: Mapping[str, PriceList], table: Table | None, only: str | None, today: date
) -> Checked:
    """Compare each model of the catalogue at each of its providers, or at one; a vendor's own word goes first.

    `vendors` are the price lists of those that are set up here, and `table` is LiteLLM's, if it is there. A vendor that
    does not answer is named, and the others are compared. Of two changes to one entry, the second has the first, so
    that the last can be pasted alone.
    """
    sold = [
        (entry, name, str(entry.at(name).quoted_model))
        for entry in book.models
        for name in entry.providers
        if only in {None, name}
    ]
    lists, unreachable = dict[tuple[str, str], list[Published]](), dict[str, str]()
    for provider in sorted({name for _, name, _ in sold}):
        models = sorted({model for _, name, model in sold if name == provider})
        answers = [] if table is None else [litellm_table.published(table, provider, models)]
        if provider in vendors:
            try:
                answers.insert(0, vendors[provider].published(models))
            except GenerationUnknown as error:
                unreachable[provider] = str(error)
        for model in models:
            lists[provider, model] = [answer[model] for answer in answers if model in answer]
    compared, now = list[Compared](), {entry.model: entry for entry, _, _ in sold}
    for entry, name, model in sold:
        if found := lists[name, model]:
            compared.append(compare(now[entry.model], name, found, today))
            now[entry.model] = compared[-1].after or entry  # so that changes at two providers can both be pasted
    missing = [(entry.model, name) for entry, name, model in sold if not lists[name, model]]
    return Checked(tuple(compared), tuple(missing), unreachable)
