"""Divide the live videos into regions in which the rules decide alike, by asking the rules themselves. Pure.

    tree = divide(judged, names(policy, tiers, codecs, marks), views_since)

A region stands for all videos with properties within its limits, and is judged as a video is, by the same functions.
Where one compares a property with a limit that lies within the region, the region is divided there; so every bound
comes from the policy by way of the rules, and none is written twice. A region is kept as a whole only if the rules
keep it without having asked for anything that it leaves open: such as the exact size, or a notice in force. All other
videos are read and judged one by one. So a wrong region could only delay an action, never cause one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, NoReturn, cast

from reelkeeper.model import Action, Fork, Verdict, Video
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy

MAX_REGIONS: Final = 1_000  # each is a case of a statement; those beyond are judged one by one
MAX_DEPTH: Final = 40  # questions one within another: a statement is built and read by recursion
Judged = Callable[[Iterable[Video]], Iterable[Verdict]]
Names = Mapping[str, Collection[str]]
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


class _AskedError(Exception):
    """The rules ask what divides the region: a property's name, and the possible answers."""


class _OpenError(Exception):
    """The rules ask what no region knows."""


def names(policy: LifecyclePolicy, tiers: Tiers, codecs: Collection[str], marks: Collection[str]) -> Names:
    """Return the names that the rules distinguish, by property; all others are alike."""
    asked = {
        of: sorted({name for one in policy.segments for name in getattr(one, of) or ()}) for of in ("models", "tags")
    }
    return {
        "tier": tiers.names,
        "model": asked["models"],
        "tag": asked["tags"],
        "codec": sorted(codecs),
        "refused_recipe": sorted(marks),
    }


def divide(judged: Judged, known: Names, views_since: datetime) -> Fork | str | None:
    """Divide all live videos by what `judged` decides. `views_since`: views of videos created before are unknown."""
    left = MAX_REGIONS

    def explore(region: "_Region", depth: int = 0) -> Fork | str | None:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            return None
        try:
            (verdict,) = judged([cast("Video", region)])
        except _AskedError as asked:
            name, answers = asked.args
            # first, as most videos have none of the names
            otherwise = explore(region.answering(name, *answers, otherwise=True), depth + 1)
            found = [(answer, explore(region.answering(name, answer), depth + 1)) for answer in answers]
            apart = tuple((answer, tree) for answer, tree in found if tree != otherwise)
            return Fork(name, apart, otherwise) if apart else otherwise
        except _OpenError:
            return None
        # guard rules.region: videos to be retired are counted as kept, night after night
        return verdict.rule if verdict.action is Action.KEEP else None

    spans = {
        "created_at": _Span("created_at", _FIRST, _LAST, timedelta(microseconds=1)),
        "views": _Span("views", -inf, inf, 1),
        "size_bytes": _Span("size_bytes", -inf, inf, 1),
    }
    return explore(_Region(spans, views_since, known))


def _open(*_: object) -> NoReturn:
    raise _OpenError


class _Span:
    """An ordered property that is at least `low` and below `high`. A comparison within divides the region there."""

    tzinfo = UTC
    __eq__ = __bool__ = __sub__ = __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = _open
    __hash__ = None  # type: ignore[assignment]  # as of any class with an equality of its own

    def __init__(self, name: str, low: Any, high: Any, step: Any) -> None:  # noqa: ANN401  a time or a number
        self.name, self.low, self.high, self.step = name, low, high, step

    def __lt__(self, limit: Any) -> bool:  # noqa: ANN401  a time or a number
        if self.high <= limit:
            return True
        if self.low >= limit:
            return False
        raise _AskedError(self.name, (limit,))

    def __ge__(self, limit: Any) -> bool:  # noqa: ANN401  a time or a number
        return not self < limit

    def __le__(self, limit: Any) -> bool:  # noqa: ANN401  a time or a number
        return bool(self < limit + self.step)

    def __gt__(self, limit: Any) -> bool:  # noqa: ANN401  a time or a number
        return not self < limit + self.step


class _Other:
    """A known name that is none of `names`."""

    __hash__ = object.__hash__
    __bool__ = _open

    def __init__(self, names: Collection[object] = ()) -> None:
        self.names = names

    def __eq__(self, other: object) -> bool:
        return False if other in self.names else _open()


class _Region:
    """All live videos with some properties in common, which the rules judge as one `model.Video`."""

    def __init__(self, spans: Mapping[str, _Span], views_since: datetime, names: Names, **known: object) -> None:
        self._spans, self._views_since, self._names, self._known = spans, views_since, names, known

    def answering(self, name: str, *answers: datetime | int | str | None, otherwise: bool = False) -> "_Region":
        """Return the part of the region with this answer, or with none of these."""
        spans, known = dict(self._spans), dict(self._known)
        if name in spans:
            span, (limit,) = spans[name], answers
            low, high = (limit, span.high) if otherwise else (span.low, limit)
            spans[name] = _Span(name, low, high, span.step)
        elif answers == (True,):
            known[name] = not otherwise
        else:
            known[name] = _Other(answers) if otherwise else answers[0]
        return _Region(spans, self._views_since, self._names, **known)

    def _is(self, name: str) -> bool:
        if name not in self._known:
            raise _AskedError(name, (True,))
        return bool(self._known[name])

    @property
    def created_at(self) -> _Span:
        """Divide by whether it is known."""
        return self._spans["created_at"] if self._is("dated") else _open()

    @property
    def views(self) -> _Span | None:
        """Leave them unknown where a day of the window is not recorded."""
        return self._spans["views"] if self.created_at >= self._views_since else None

    @property
    def kept_until(self) -> None:
        """Divide by whether its user asked to keep it."""
        return _open() if self._is("kept") else None

    @property
    def id(self) -> _Other:
        """Divide by whether it has a notice in force, which are found by id."""
        return _open() if self._is("noticed") else _Other()

    def __getattr__(self, name: str) -> object:
        if name in ("held", "compressed", "is_ours"):
            return self._is(name)
        if name == "size_bytes":
            return self._spans[name]
        if name not in self._names:
            _open()
        if name not in self._known:
            raise _AskedError(name, (None, *self._names[name]))
        return self._known[name]
