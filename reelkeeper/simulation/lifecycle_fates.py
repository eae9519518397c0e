"""Find when each video is compressed and retired under a policy: night by night while views are recorded, then by age.

A night is a midnight, counted from the start; a video is judged from the first midnight after its upload on.
"""

from collections.abc import Callable, Hashable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np

from reelkeeper.model import Action, Grace, Verdict, Video
from reelkeeper.rules.lifecycle.lifecycle import Appraise, Judge, judging
from reelkeeper.rules.lifecycle.selection import fit
from reelkeeper.rules.lifecycle.transcode import MAX_BYTES_IN_PLACE, NEW_KEY, Placement
from reelkeeper.rules.lifecycle.worth import Payback, Worth
from reelkeeper.rules.policies import Policies
from reelkeeper.simulation.lifecycle_limits import NEVER, UNKNOWN, Coming, Flags, Ints, Limits, find, look_ahead

UNBORN: Final = -(2**24)  # the day of a video of unknown age


def plain_kind(video: Video) -> Hashable:
    """Return the properties of a video that the rules use, other than age, views and bytes.

    What is larger than `MAX_BYTES_IN_PLACE` is a kind of its own: more bytes turn no encode into less within a kind.
    """
    is_large = video.size_bytes > MAX_BYTES_IN_PLACE
    return video.tier, video.codec, video.refused_recipe, video.compressed, video.is_ours, is_large


def keep_everything(video: Video) -> Verdict:
    """Keep a video, whatever it is."""
    return Verdict(video, Action.KEEP, "kept")


class Trial(NamedTuple):
    """A policy to be tried. `judge` judges as of the midnight on which the future begins.

    `kind` must distinguish videos that `judge` treats differently at equal age, views and bytes; where bytes decide
    about a video's segment, `judge_like` gives the judge of videos of one kind, for any bytes.
    """

    name: str
    judge: Judge
    grace: Grace = Grace()
    payback: Payback = Payback()
    codec: str = "h264"  # of results
    place: Placement = NEW_KEY  # of results for the service's keys
    infrequent_after_days: tuple[int | None, ...] = (None,)  # each is reckoned by itself: None stays in Standard
    kind: Callable[[Video], Hashable] = plain_kind
    judge_like: Callable[[Video], Judge] | None = None


def try_policies(
    name: str,
    policies: Policies,
    as_of: datetime,
    mark: str,
    worth: Appraise,
    infrequent_after_days: tuple[int | None, ...] = (None,),
    *,
    keeps_contract: bool,
) -> Trial:
    """Make a trial of the lifecycle rules by these policies. `mark` is the recipe's, `worth` appraises its encodes.

    As plans do, it keeps the videos at the service's keys in a bucket that has not passed the contract.
    """
    policy, recipe = policies.lifecycle, policies.recipe

    def judge(like: Video | None = None) -> Judge:
        rule = judging(policy, policies.tiers, as_of, mark, recipe.skip_codecs, worth, like=like)
        return lambda video: fit(rule(video), recipe.place, keeps_contract=keeps_contract)

    trial = Trial(name, judge(), policy.grace, recipe.payback, recipe.codec, recipe.place, infrequent_after_days)
    if not policy.segments:
        return trial
    return trial._replace(kind=lambda video: (plain_kind(video), policy.choose(video)), judge_like=judge)


class Group(NamedTuple):
    """Some videos as columns, in nights from the start; NEVER for unknown nights and those that never come."""

    videos: list[Video]
    at_midnight: Flags  # created at 00:00
    born: Ints  # the day of the upload, negative before the start, UNBORN where it is unknown
    stored: Ints  # the day before the first midnight on which its bytes are a day old
    sizes: Ints
    is_ours: Flags
    free_from: Ints  # the first night on which no hold is in force
    kept_to: Ints  # the first night on which no request to keep it is
    removed: Ints  # the day on which it was removed in fact
    by_rule: Flags  # by a policy: it may stay longer in the trial, and its views are not known any more
    at_once: Flags  # without grace
    views: Ints  # in the 30 days before each night up to the one on which the future begins; video, night

    def take(self, chosen: Ints) -> "Group":
        """Select some of the videos, by their indices."""
        columns: list[Any] = [column[chosen] for column in self[1:]]
        return Group([self.videos[place] for place in chosen], *columns)


class Fates(NamedTuple):
    """The fate of each video: the night of its retirement and of its encode, NEVER if none comes."""

    retired: Ints
    compressed: Ints
    result_bytes: Ints
    cpu_ms: Ints


class Clock(NamedTuple):
    """The nights of a simulation: `today` is the one from which on views are assumed; `as_of` its moment."""

    as_of: datetime
    today: int
    nights: int
    ages: int  # up to which videos are asked about


class Judgement:
    """A policy applied to any number of groups; its rule is evaluated once for each kind.

    `like` is a judgement of the same policy by a clock of the same ages, whose results are reused.
    """

    def __init__(self, trial: Trial, clock: Clock, like: "Judgement | None" = None) -> None:
        self.trial, self._clock = trial, clock
        self.known: dict[Hashable, tuple[Limits, Coming]] = like.known if like else {}

    def of(self, group: Group) -> Fates:
        """Follow each video to its end."""
        count = len(group.videos)
        fates = Fates(
            np.full(count, NEVER), np.full(count, NEVER), np.zeros(count, np.int64), np.zeros(count, np.int64)
        )
        if self.trial.judge is keep_everything or not count:
            return fates
        retired, compressed = self._first(group, np.maximum(group.born + 1, 0))
        gone = np.where(group.by_rule, NEVER, group.removed)
        compressed[(compressed > retired) | (compressed > gone)] = NEVER
        fates.compressed[:] = compressed
        fates.retired[:] = np.where(retired < compressed, retired, NEVER)
        encoded = np.flatnonzero(compressed < NEVER)
        if len(encoded):
            self._encode(group, encoded, fates)
        fates.retired[fates.retired > gone] = NEVER
        return fates

    def _encode(self, group: Group, encoded: Ints, fates: Fates) -> None:
        after: list[Video] = []
        for place in encoded:
            verdict = self._judge(group, int(place), int(fates.compressed[place]))
            worth = next((figure for figure in verdict.figures if isinstance(figure, Worth)), None)
            if verdict.action is not Action.COMPRESS or worth is None:
                raise AssertionError(
                    f"the rule says {verdict.rule} of {group.videos[place].id}, and not what was found"
                )
            video = group.videos[place]
            left = video.size_bytes - worth.saved_bytes
            fates.result_bytes[place] = left
            fates.cpu_ms[place] = round(worth.cpu_seconds * 1000)
            after.append(video._replace(size_bytes=left, codec=self.trial.codec, compressed=True))
        smaller = group.take(encoded)._replace(videos=after, sizes=fates.result_bytes[encoded])
        fates.retired[encoded] = self._first(smaller, fates.compressed[encoded] + 1)[0]

    def _first(self, group: Group, first: Ints) -> tuple[Ints, Ints]:
        """Find the first nights, from `first` on, on which each video would be retired, and compressed."""
        retired, compressed = np.full(len(first), NEVER), np.full(len(first), NEVER)
        for places, (limits, coming) in self._kinds(group):
            some = group.take(places)
            retired[places], compressed[places] = self._nights(some, first[places], limits, coming)
            for place in np.flatnonzero(limits.is_close(some.sizes)):
                retired[places[place]], compressed[places[place]] = self._judge_nights(
                    some, int(place), int(first[places[place]])
                )
        return retired, compressed

    def _kinds(self, group: Group) -> Iterable[tuple[Ints, tuple[Limits, Coming]]]:
        by_kind: dict[Hashable, list[int]] = {}
        for place, (video, at_midnight) in enumerate(zip(group.videos, group.at_midnight.tolist(), strict=True)):
            if video.created_at is not None:  # of unknown age: kept
                by_kind.setdefault((self.trial.kind(video), at_midnight), []).append(place)
        for kind, places in by_kind.items():
            if kind not in self.known:
                example, at_midnight = group.videos[places[0]], bool(group.at_midnight[places[0]])
                judge = self.trial.judge_like(example) if self.trial.judge_like else self.trial.judge
                limits = find(judge, example, self._clock.as_of, self._clock.ages, at_midnight=at_midnight)
                self.known[kind] = limits, look_ahead(limits)
            yield np.array(places, dtype=np.int64), self.known[kind]

    def _nights(self, group: Group, first: Ints, limits: Limits, coming: Coming) -> tuple[Ints, Ints]:
        """Evaluate each night whose views are recorded, and from then on each age."""
        today = self._clock.today
        nights = np.arange(today + 1, dtype=np.int64)
        ages = np.clip(nights - group.born[:, None], 0, self._clock.ages)
        views, begun = group.views, (nights >= first[:, None]) & (nights >= group.free_from[:, None])
        below = limits.retire_below[ages]
        goes = begun & (views < below) & (nights >= group.kept_to[:, None])
        shrinks = begun & (views >= below) & (views < limits.compress_below[ages])
        shrinks &= group.sizes[:, None] >= limits.least_bytes[ages]
        retired, compressed = _first_night(goes), _first_night(shrinks)
        later = np.maximum(np.maximum(first, today + 1), group.free_from)
        classes = np.searchsorted(coming.bounds, views[:, -1], side="right")
        compressed = np.where(
            compressed < NEVER, compressed, self._encoded_later(group, later, classes, limits, coming)
        )
        last = self._clock.nights - 1
        begin = np.maximum(later, group.kept_to)
        age = coming.retired_at[classes, np.clip(begin - group.born, 0, self._clock.ages)]
        at = np.where((begin <= last) & (age < NEVER), age + group.born, NEVER)
        retired = np.where(retired < NEVER, retired, at)
        return np.where(retired > last, NEVER, retired), np.where(compressed > last, NEVER, compressed)

    def _encoded_later(self, group: Group, later: Ints, classes: Ints, limits: Limits, coming: Coming) -> Ints:
        found = np.full(len(later), NEVER)
        ages = np.clip(later - group.born, 0, self._clock.ages)
        open_ = np.flatnonzero(later < self._clock.nights)
        while len(open_):
            at, least = (table[classes[open_], ages[open_]] for table in (coming.compressed_at, coming.least_bytes))
            may = (at < NEVER) & (group.sizes[open_] >= least)
            open_, at = open_[may], at[may]
            pays = group.sizes[open_] >= limits.least_bytes[at]
            found[open_[pays]] = at[pays] + group.born[open_[pays]]
            ages[open_] = at + 1
            open_ = open_[~pays & (at < self._clock.ages)]
        return found

    def _judge_nights(self, group: Group, place: int, first: int) -> tuple[int, int]:
        """Evaluate the rule itself for each night of one video."""
        compressed = NEVER
        for night in range(first, self._clock.nights):
            action = self._judge(group, place, night).action
            if action is Action.RETIRE:
                return night, compressed
            if action is Action.COMPRESS and compressed == NEVER:
                compressed = night
        return NEVER, compressed

    def _judge(self, group: Group, place: int, night: int) -> Verdict:
        video = group.videos[place]
        views = int(group.views[place, min(night, self._clock.today)])
        seen = video._replace(
            created_at=video.created_at and video.created_at + timedelta(days=self._clock.today - night),
            views=None if views == UNKNOWN else views,
            held=bool(night < group.free_from[place]),
            kept_until=self._clock.as_of + timedelta(days=1) if night < group.kept_to[place] else None,
        )
        return self.trial.judge(seen)


def _first_night(flags: Flags) -> Ints:
    found: Ints = np.where(flags.any(axis=1), flags.argmax(axis=1), NEVER)
    return found
