"""Tell kinds of objects by their keys, price what a scan found, and value what could be done about it. Pure.

Dollars a month are differences of R2's bill for storage, rounded as it rounds, for an account that stores nothing else.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from reelkeeper.model.key_patterns import VIDEO_EXTENSIONS
from reelkeeper.model.money import MICRO
from reelkeeper.model.scan import Folders, Kind, Lever, Part, Sample, Verdict
from reelkeeper.rules.billing.pricing import (
    InfrequentAccessUsage,
    Saving,
    StandardUsage,
    Usage,
    bill,
    gb_months,
    saving_this_month,
)
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, GB, INFREQUENT_ACCESS, MILLION, STANDARD
from reelkeeper.rules.core.wording import dollars, many, size
from reelkeeper.rules.lifecycle.worth import EXPECTED_SHARE, REQUESTS_USD, Payback, Worth, cpu_seconds_a_byte

MIN_USD_A_MONTH: Final = 1  # less in a year than an hour of anybody's time
MOST_MONTHS: Final = 12  # in which what is done once must have come back
_NAMED_FOLDERS: Final = 8
_MIN_OF_ONE_USER: Final = 20  # objects; a smaller bucket may well be of one
_ENDS: Final = {
    Kind.VIDEO: VIDEO_EXTENSIONS,
    Kind.IMAGE: ("jpg", "jpeg", "png", "webp", "gif", "avif", "heic"),
    Kind.PLAYLIST: ("m3u8", "mpd"),
    Kind.SEGMENT: ("ts", "m4s"),
    Kind.SOUND: ("mp3", "m4a", "aac", "wav", "ogg", "opus", "flac"),
    Kind.TEXT: ("json", "csv", "txt", "vtt", "srt", "xml", "log"),
}
_KIND_OF: Final = {end: kind for kind, ends in _ENDS.items() for end in ends}


def kind_of(key: str) -> Kind:
    """Return the kind of an object by the end of its key."""
    if key.endswith("/"):
        return Kind.FOLDER
    _, dot, end = key.rpartition(".")
    return _KIND_OF.get(end.lower(), Kind.OTHER) if dot else Kind.OTHER


class Kept(NamedTuple):
    """What encodes leave of videos, as a share, their CPU for each byte of a source, and where this is known from."""

    share: float
    cpu_seconds_a_byte: float
    source: str

    @classmethod
    def of(cls, sample: Sample | None, codec: str) -> "Kept":
        """Take a sample's figures, or without one those that plans begin with."""
        if sample and sample.size_bytes:
            shares = sorted(clip.kept_bytes / clip.size_bytes for clip in sample.clips if clip.size_bytes)
            cpu_seconds = sum(clip.cpu_seconds for clip in sample.clips) / sample.size_bytes
            ours = f"{many(len(sample.clips), 'clip')} of this bucket, each {shares[0]:.0%}"
            ours += f" to {shares[-1]:.0%}" if shares[-1] > shares[0] else ""
            rules = Counter(clip.rule for clip in sample.clips if clip.rule != "accepted")
            if rules:
                whys = ", ".join(f"{count:,} {rule.replace('_', ' ')}" for rule, count in rules.most_common())
                ours += f" ({rules.total():,} of them would stay as they are: {whys})"
            return cls(sample.kept_bytes / sample.size_bytes, cpu_seconds, ours)
        return cls(
            EXPECTED_SHARE,
            cpu_seconds_a_byte(codec),
            "the expectation that plans begin with (measured on three natural clips); --sample 10 measures it here",
        )


class Found(NamedTuple):
    """The parts that levers act on: all objects, and some in Standard. The `old` ones are 31 whole days old or more."""

    total: Part  # with the parts of unfinished uploads
    videos: Part
    old: Part
    old_videos: Part
    duplicates: Part
    unfinished: Part | None
    orphans: Part | None
    is_listed: bool = True


def usage_of(total: Part) -> Usage:
    """Return a month's usage of what is stored."""
    return Usage(
        standard=StandardUsage(gb_month=gb_months([total.size_bytes - total.infrequent_bytes])),
        infrequent_access=InfrequentAccessUsage(gb_month=gb_months([total.infrequent_bytes])),
    )


def list_usd(part: Part) -> Decimal:
    """Price a month's storage without the free allowance and without rounding."""
    standard = (part.size_bytes - part.infrequent_bytes) * STANDARD.storage_usd_per_gb_month
    return (standard + part.infrequent_bytes * INFREQUENT_ACCESS.storage_usd_per_gb_month) / GB


def levers(found: Found, kept: Kept, payback: Payback) -> Sequence[Lever]:
    """Value each lever: those with a known effect first, by dollars a month, then those that nobody can know."""
    made = [
        _compress(found, kept, payback),
        _infrequent(found),
        _retire(found),
        _remove("remove_duplicates", found, found.duplicates, _BY_SERVICE),
        _remove("abort_uploads", found, found.unfinished, "R2's default lifecycle rule does it after 7 days"),
        _remove("remove_images", found, found.orphans, _BY_SERVICE),
    ]
    return sorted(made, key=lambda lever: (lever.verdict is Verdict.UNKNOWN, -lever.usd_a_month, lever.once_usd))


_TITLES: Final = {
    "compress": "Compress the videos",
    "infrequent_access": "Move old objects to Infrequent Access, if seldom read",
    "retire_unwatched": "Retire what nobody watches",
    "remove_duplicates": "Store duplicates once",
    "abort_uploads": "Abort unfinished uploads",
    "remove_images": "Delete images whose video is gone",
}
_BY_SERVICE: Final = "for your service to do, as its links name these keys: Reelkeeper never does"
_NOTHING: Final = Saving(Decimal(0), Decimal(0))


def _compress(found: Found, kept: Kept, payback: Payback) -> Lever:
    saved = round(found.videos.size_bytes * max(0.0, 1 - kept.share))
    cpu = Worth(saved, 0, found.videos.size_bytes * kept.cpu_seconds_a_byte, payback)
    once = Decimal(str(round(cpu.cost_usd + max(0, found.videos.objects - 1) * REQUESTS_USD, 6)))
    why = (
        f"keeps {kept.share:.0%} of {size(found.videos.size_bytes)}, by {kept.source}; takes "
        f"{cpu.cpu_seconds / 3600:,.1f} h of CPU"
    )
    return _judged("compress", found.videos._replace(size_bytes=saved), _less(found, saved), why, once)


def _infrequent(found: Found) -> Lever:
    there = found.total.infrequent_bytes + found.old.size_bytes
    before, after = bill(usage_of(found.total)), bill(usage_of(found.total._replace(infrequent_bytes=there)))
    a_month = Saving(before.billed_usd - after.billed_usd, before.exact_usd - after.exact_usd)
    millions = -(-found.old.objects // MILLION)
    why = (
        f"{size(found.old.size_bytes)} are 31 days old or older. Once is {many(millions, 'million')} of transitions, "
        f"and a rule that goes on moving objects costs that each month. {INFREQUENT_ACCESS.minimum_days} days are "
        "billed at least, nothing is free there, and to read an object once takes two months of what it saves"
    )
    return _judged("infrequent_access", found.old, a_month, why, millions * INFREQUENT_ACCESS.class_a_usd_per_million)


def _retire(found: Found) -> Lever:
    why = (
        "a listing does not know who watches: at most this, if nobody watches any of the "
        f"{size(found.old_videos.size_bytes)} of videos that are 31 days old or older. After reelkeeper videos "
        "import --views, reelkeeper plan tier_storage knows"
    )
    return _judged(
        "retire_unwatched", found.old_videos, _less(found, found.old_videos.size_bytes), why, verdict=Verdict.UNKNOWN
    )


def _remove(name: str, found: Found, part: Part | None, how: str) -> Lever:
    if part is None:
        if not found.is_listed:
            why = "the listing is not complete"
        elif name == "abort_uploads":
            why = "this bucket did not say"
        else:
            why = "the names of images do not say whose they are, or the patterns of keys do not fit"
        return _judged(name, Part(""), _NOTHING, why, verdict=Verdict.UNKNOWN)
    why = f"{many(part.objects, 'object')}, {size(part.size_bytes)}: {how}" if part.objects else "none was found"
    return _judged(name, part, _less(found, part.size_bytes), why)


def _less(found: Found, size_bytes: int) -> Saving:
    return saving_this_month(usage_of(found.total), size_bytes, DAYS_A_MONTH)


def _judged(
    name: str, part: Part, a_month: Saving, why: str, once: Decimal = Decimal(0), verdict: Verdict = Verdict.WORTH
) -> Lever:
    if verdict is Verdict.WORTH and a_month.billed_usd < MIN_USD_A_MONTH:
        verdict = Verdict.NOT_WORTH
    elif verdict is Verdict.WORTH and once > MOST_MONTHS * a_month.exact_usd:
        verdict = Verdict.NOT_WORTH
        why += f"; takes {once / a_month.exact_usd:,.0f} months to come back" if a_month.exact_usd > 0 else ""
    return Lever(name, _TITLES[name], part.objects, part.size_bytes, a_month.billed_usd, once, verdict, why)


def remarks(total: Part, users: Sequence[Part], billed_usd: Decimal, made: Sequence[Lever]) -> Iterator[str]:
    """Say what the figures come to."""
    if users and users[0].objects >= _MIN_OF_ONE_USER and 10 * users[0].objects > 9 * total.objects:
        yield (
            f"{many(users[0].objects, 'object')} are of one user, {users[0].name}, by the patterns of keys: if they do "
            "not fit, say --prefix or --pattern."
        )
    free = STANDARD.free_gb_months
    if total.size_bytes and not billed_usd:
        yield f"All of it is within R2's free {free} GB: it costs nothing yet if the account stores nothing else."
    worth = [lever for lever in made if lever.verdict is Verdict.WORTH]
    if worth:
        yield f"The largest lever: {worth[0].title.lower()}, {dollars(worth[0].usd_a_month * MICRO)} a month."
    elif billed_usd:
        yield f"No lever is worth pulling: none brings {dollars(Decimal(MIN_USD_A_MONTH * MICRO))} a month."
    if len(worth) > 1:
        yield "Levers overlap, so their dollars do not add up."
    yield "Requests, and generation, which costs a service far more than storage, do not show in a listing."


def unowned(videos: int, of_users: int) -> str:
    """Say that most videos have no user by the patterns of keys, so that the users of the others are none; "" else."""
    if 2 * of_users >= videos:
        return ""
    return f"{videos - of_users:,} of {many(videos, 'video')} have no user by them"


def nothing_under(prefix: str, folders: Folders, page_objects: int) -> str:
    """Say where the objects of a bucket are that has none under `prefix`."""
    none = f"0 objects under {prefix or '/'}; the bucket"
    if not folders.counted and not folders.outside.objects:
        return f"{none} is empty"
    beyond = {True: " or more", False: ""}
    found = [
        f"{part.name} ({many(part.objects, 'object')}{beyond[part.objects >= page_objects]})"
        for part in folders.counted[:_NAMED_FOLDERS]
    ]
    if more := len(folders.counted) + len(folders.uncounted) - len(found):
        uncounted = f", of which {len(folders.uncounted):,} were not counted" if folders.uncounted else ""
        found.append(f"{many(more, 'more folder')}{beyond[not folders.is_complete]}{uncounted}")
    if folders.outside.objects or not folders.is_complete:
        objects = f"{many(folders.outside.objects, 'object')}{beyond[not folders.is_complete]}"
        found.append(f"{objects} outside of any folder")
    return f"{none} has {', '.join(found)}"
