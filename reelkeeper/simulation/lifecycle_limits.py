"""Find the ages, views and sizes at which a verdict changes, by calling the rule, so that no rule is written twice.

The rule is called for each whole day of age of each kind of video; it is assumed that fewer views and more bytes never
turn a retirement, or an encode, into less. Where the bytes are within rounding of the least that pays for an encode,
`Limits.is_close` says so, and the rule is called for that video itself.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from reelkeeper.model import Action, Video
from reelkeeper.rules.lifecycle.lifecycle import Judge
from reelkeeper.rules.lifecycle.transcode import MAX_BYTES_IN_PLACE

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
UNKNOWN: Final = 2**31 - 1  # stands for unknown views, above every count
NEVER: Final = 2**40  # a night that does not come
_ALWAYS: Final = UNKNOWN + 1  # a limit of views above all, unknown ones too
_MAX_BYTES: Final = 2**50
_HALF_A_DAY: Final = timedelta(hours=12)
_ROUNDING: Final = 1e-4  # of the bytes that pay, within which rounding may decide
_ROUNDING_BYTES: Final = 16


class Limits(NamedTuple):
    """For each whole day of age: retired below these views, else compressed below those from these bytes on."""

    retire_below: Ints
    compress_below: Ints
    least_bytes: Ints

    def is_close(self, sizes: Ints) -> Flags:
        """Tell for which sizes rounding may decide whether an encode pays off."""
        thresholds = np.unique(self.least_bytes[self.compress_below > self.retire_below])
        thresholds = thresholds[thresholds > 0]
        if not len(thresholds):
            return np.zeros(len(sizes), dtype=np.bool_)
        above = np.clip(np.searchsorted(thresholds, sizes), 0, len(thresholds) - 1)
        near = np.minimum(np.abs(thresholds[above] - sizes), np.abs(thresholds[np.maximum(above - 1, 0)] - sizes))
        close: Flags = near <= _ROUNDING_BYTES + _ROUNDING * sizes
        return close


def find(judge: Judge, video: Video, as_of: datetime, ages: int, *, at_midnight: bool) -> Limits:
    """Call the rule for videos of the kind of `video` of 0 to `ages` days, all judged at the midnight `as_of`.

    Ages are rounded up to whole days; `at_midnight` are videos of exactly that age.
    """
    found = np.zeros((3, ages + 1), dtype=np.int64)
    below, encoded, least = 0, 0, 0
    most = MAX_BYTES_IN_PLACE if video.size_bytes <= MAX_BYTES_IN_PLACE else _MAX_BYTES  # of its kind
    for age in range(ages + 1):
        created_at = as_of - timedelta(days=age) + (timedelta() if at_midnight else _HALF_A_DAY)
        of_age = video._replace(created_at=created_at, held=False, kept_until=None)

        def is_retired(views: int | None, of_age: Video = of_age) -> bool:
            return judge(of_age._replace(views=views)).action is Action.RETIRE

        def is_compressed(views: int | None, size: int, of_age: Video = of_age) -> bool:
            return judge(of_age._replace(views=views, size_bytes=size)).action is Action.COMPRESS

        def is_refused(views: int, size: int, ask: Callable[[int, int], bool] = is_compressed) -> bool:
            return not ask(views, size)

        below = _first_without(is_retired, 0, UNKNOWN, min(below, UNKNOWN))
        until = below
        if below == UNKNOWN:
            below = _ALWAYS if is_retired(None) else UNKNOWN
        elif is_compressed(below, most):
            until = encoded = _first_without(partial(is_compressed, size=most), below, UNKNOWN, encoded)
            least = _first_without(partial(is_refused, below), 0, most, least)
        found[:, age] = below, max(until, below), least
    return Limits(*found)


def _first_without(test: Callable[[int], bool], least: int, most: int, guess: int) -> int:
    """Find the first number from `least` on, at most `most`, that fails a test which all before it pass."""
    guess = max(guess, least)
    if guess < most and not test(guess):
        if guess == least or test(guess - 1):
            return guess
        most = guess
    elif guess < most:
        least = guess
    elif guess > least and test(guess - 1):
        return most
    while least < most:
        middle = (least + most) // 2
        if test(middle):
            least = middle + 1
        else:
            most = middle
    return least


class Coming(NamedTuple):
    """By class of views and age: the next age at which a video is retired, or, if an encode pays, compressed."""

    bounds: Ints  # views of each class are below its bound, and not below the one before
    retired_at: Ints  # class, age
    compressed_at: Ints
    least_bytes: Ints  # the smallest that pays at an age from this one on at which it would be encoded


def look_ahead(limits: Limits) -> Coming:
    """Find for each class of views, and each age, what the ages from there on bring."""
    bounds = np.unique(np.concatenate([limits.retire_below, limits.compress_below]))
    classes = np.concatenate([[-1], bounds])  # the fewest views of each class
    ages = np.arange(len(limits.retire_below), dtype=np.int64)
    shape = (len(classes), len(ages))
    retired, compressed = np.full(shape, NEVER), np.full(shape, NEVER)
    least = np.full(shape, _MAX_BYTES)
    for place, views in enumerate(classes):
        goes = views < limits.retire_below
        shrinks = ~goes & (views < limits.compress_below)
        retired[place] = _from_here(np.where(goes, ages, NEVER))
        compressed[place] = _from_here(np.where(shrinks, ages, NEVER))
        least[place] = _from_here(np.where(shrinks, limits.least_bytes, _MAX_BYTES))
    return Coming(bounds, retired, compressed, least)


def _from_here(values: Ints) -> Ints:
    """Give for each index the smallest value from there on."""
    found: Ints = np.minimum.accumulate(values[::-1])[::-1]
    return found
