"""Select the verdicts that a flow acts on: by its rules, by what the bucket allows, and by the limits of a run.

The others become "keep", with a reason.
"""

import heapq
from collections.abc import Iterable, Iterator
from typing import Final
from zlib import crc32

from reelkeeper.model import Action, Verdict, Video
from reelkeeper.rules.core.wording import Terms
from reelkeeper.rules.lifecycle.transcode import (
    BUCKET_LOCK,
    IN_PLACE,
    IN_PLACE_CODEC,
    MAX_BYTES_IN_PLACE,
    NOT_IN_PLACE,
    Placement,
    mark_of_month,
)
from reelkeeper.rules.lifecycle.worth import MOST_MICROUSD_TO_LEARN, REQUESTS_IN_PLACE_USD, Worth

TRIED: Final = "tried_to_learn"
MOST_TRIED: Final = 10  # by a plan: large clips have taught enough in two nights, and those of 2 MB in three weeks
_TENTH: Final = 10  # of what is left of the day's dollars: the rest is for what is expected to pay

_OF_TIERING = frozenset(  # rules that concern `tier_storage` alone, and retire nothing
    {
        "cold_compress",
        "too_young",
        "cold_rules_off",
        "unknown_views",
        "still_watched",
        "compressed_before",
        "already_efficient",
        "refused_before",
    }
)


def for_tiering(judged: Iterable[Verdict]) -> Iterator[Verdict]:
    """Leave videos past their retention to `expire_videos`, so that none is compressed that is about to be retired."""
    return _leaving(judged, frozenset({"past_retention"}), "left_to_expire_videos")


def for_expiry(judged: Iterable[Verdict]) -> Iterator[Verdict]:
    """Leave those to `tier_storage` that it retires, and say of what it compresses or keeps that its retention lasts.

    What it keeps them for, such as unknown views, keeps none once it is over.
    """
    for verdict in _leaving(judged, frozenset({"cold_retire"}), "left_to_tier_storage"):
        of_rules = _of_rules(verdict)
        is_its = of_rules.rule in _OF_TIERING
        yield of_rules._replace(action=Action.KEEP, rule="within_retention") if is_its else verdict


def _leaving(judged: Iterable[Verdict], rules: frozenset[str], left: str) -> Iterator[Verdict]:
    for verdict in judged:
        of_rules = _of_rules(verdict)
        yield Verdict(verdict.video, Action.KEEP, left, (of_rules,)) if of_rules.rule in rules else verdict


def _of_rules(verdict: Verdict) -> Verdict:
    """Return what the rules say of a video that gets notice, waits for it, or is kept by the contract."""
    figure = verdict.figures[0] if verdict.figures else None
    return figure if isinstance(figure, Verdict) else verdict


def largest_first(judged: Iterable[Verdict], limit: int, left_microusd: int | None = None) -> Iterator[Verdict]:
    """Leave all except the `limit` largest videos to be compressed to the next run; only these are in memory.

    Of these, leave those to another day whose expected cost exceeds the rest of `left_microusd`, the amount left for
    compressing today; None: any amount.
    """
    heap: list[tuple[int, int, Verdict]] = []
    for order, verdict in enumerate(judged):
        if verdict.action is not Action.COMPRESS:
            yield verdict
            continue
        entry = (verdict.video.size_bytes, -order, verdict)  # of equals, the first one stays
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        else:
            *_, smallest = heapq.heappushpop(heap, entry)
            yield Verdict(smallest.video, Action.KEEP, "beyond_compress_limit", (smallest, limit))
    yield from _affordable((verdict for _, _, verdict in sorted(heap, reverse=True)), left_microusd)


def _affordable(compressed: Iterable[Verdict], left_microusd: int | None) -> Iterator[Verdict]:
    left = left_microusd
    for verdict in compressed:
        cost = sum(worth.cost_microusd for worth in _worths(verdict))
        if left is None or cost <= left:
            left = None if left is None else left - cost
            yield verdict
        else:
            yield Verdict(verdict.video, Action.KEEP, "left_to_another_day", (verdict, cost, left))


def trying(
    judged: Iterable[Verdict], place: Placement, left_microusd: int | None, *, keeps_contract: bool
) -> Iterator[Verdict]:
    """Have a few of the videos compressed for which an encode may pay, so that the store learns whether it does.

    They are drawn by their ids, so that they are like those that later plans decide about, and a plan made twice is
    the same; only these are in memory. `left_microusd` as in `largest_first`.
    """
    affordable = MOST_TRIED if left_microusd is None else left_microusd // _TENTH // MOST_MICROUSD_TO_LEARN
    most = min(MOST_TRIED, affordable)
    drawn: list[tuple[int, str, Verdict, Verdict]] = []
    for verdict in judged:
        video_id = verdict.video.id
        lot = -crc32(video_id.encode()), video_id
        # asked first, as it costs least, and most videos are out whatever they are worth
        is_in = len(drawn) < most or (drawn and lot > drawn[0][:2])
        if not is_in or verdict.rule != "does_not_pay" or not all(worth.may_pay for worth in _worths(verdict)):
            yield verdict
            continue
        tried = fit(verdict._replace(action=Action.COMPRESS, rule=TRIED), place, keeps_contract=keeps_contract)
        if tried.rule != TRIED:
            yield verdict
        else:
            heapq.heappush(drawn, (*lot, verdict, tried))
            if len(drawn) > most:
                yield heapq.heappop(drawn)[2]
    yield from (tried for *_, tried in sorted(drawn, reverse=True))


def fitting(judged: Iterable[Verdict], place: Placement, *, keeps_contract: bool) -> Iterator[Verdict]:
    """Keep videos at the service's keys that must not be compressed in place, and all without a passed contract.

    Without it, their bytes cannot be purged: what replaces or retires them would save nothing. An encode in place also
    pays for the requests of the original's copy.
    """
    return (fit(verdict, place, keeps_contract=keeps_contract) for verdict in judged)


def fit(verdict: Verdict, place: Placement, *, keeps_contract: bool) -> Verdict:
    """Do the same for one video."""
    video = verdict.video
    if verdict.action is Action.KEEP or video.is_ours:
        return verdict
    # guard rules.contract: a plan promises savings at the service's keys that cannot come
    if not keeps_contract:
        return Verdict(video, Action.KEEP, "contract_not_tried", (verdict,))
    if place != IN_PLACE or verdict.action is not Action.COMPRESS:
        return verdict
    # guard rules.in_place: a plan has videos that no run will compress, and lacks others that it could
    rule = _unfit(video, verdict.figures[0])
    if rule:
        return Verdict(video, Action.KEEP, rule, verdict.figures[:1])
    return _with_copy(verdict)


def _with_copy(verdict: Verdict) -> Verdict:
    """Count the original's copy aside in what an encode costs, and keep the video if it does not pay then."""
    figures = tuple(
        figure._replace(requests_usd=REQUESTS_IN_PLACE_USD) if isinstance(figure, Worth) else figure
        for figure in verdict.figures
    )
    copied = Verdict(verdict.video, verdict.action, verdict.rule, figures)
    if all(worth.may_pay if verdict.rule == TRIED else worth.pays for worth in _worths(copied)):
        return copied
    return Verdict(verdict.video, Action.KEEP, "does_not_pay", figures)


def _worths(verdict: Verdict) -> list[Worth]:
    return [figure for figure in verdict.figures if isinstance(figure, Worth)]


def _unfit(video: Video, terms: object) -> str | None:
    refused = video.refused_recipe
    if refused and isinstance(terms, Terms) and refused == mark_of_month(BUCKET_LOCK, terms.as_of):
        return "locked_in_place"
    if video.size_bytes > MAX_BYTES_IN_PLACE:
        return "too_large_in_place"
    # an unknown codec is checked by the run that reads the video
    is_other = video.codec not in (None, IN_PLACE_CODEC) or refused == NOT_IN_PLACE
    return NOT_IN_PLACE if is_other else None
