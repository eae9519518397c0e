"""Take a census of a listing in a private table on disk, which ends with the process: memory stays flat.

It is no part of the store. SQLite keeps such a table in a file without a name, in the folder for temporary files.
"""

import random
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from reelkeeper.model.adoption import Crowding
from reelkeeper.model.scan import Example, Kind, Part

_REST: Final = "the other {count:,}"
_OWN: Final = f"*/g[1-9]*-{'[0-9a-f]' * 16}.*"


class Entry(NamedTuple):
    """One object. `content` is a hash of size and ETag, `stem` of its user and video without a suffix."""

    key: str
    size_bytes: int
    infrequent: bool
    kind: str
    user: str | None
    content: int | None  # None where it has no bytes
    stem: int | None  # None where no pattern matches, and of what is neither video nor image
    video: int | None  # a hash of its user and video; None of what is no video of a user by the patterns


class Census:
    """The entries of a scan, until it is closed."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "BEGIN"):
            self._table.execute(statement)
        self._table.execute("CREATE TABLE entries (key, size, infrequent, kind, user, content, stem, video)")

    def close(self) -> None:
        """Drop the table."""
        self._table.close()

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries."""
        self._table.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entries)

    def by_user(self, limit: int) -> tuple[list[Part], int]:
        """Sum by user: the `limit` largest, those together that have no user by the patterns, the rest; count users."""
        parts = self._parts(
            "SELECT user, count(*), sum(size), sum(size * infrequent) FROM entries GROUP BY user ORDER BY 3 DESC, 1"
        )
        return _largest(parts, limit)

    def by_folder(self, prefix: str, limit: int) -> list[Part]:
        """Sum by the folders under `prefix`, or under the deepest folder that contains everything."""
        while True:
            parts = self._parts(
                "SELECT substr(key, 1, :n + instr(substr(key, :n + 1), '/')), count(*), sum(size), "
                "sum(size * infrequent) FROM entries GROUP BY 1 ORDER BY 3 DESC, 1",
                {"n": len(prefix)},
            )
            shown, _ = _largest(parts, limit)
            if len(shown) != 1 or shown[0].name in {prefix, None}:
                return shown
            prefix = shown[0].name

    def duplicates(self, limit: int) -> tuple[Part, list[Example]]:
        """Sum the objects beyond the first with the same size and ETag; name the largest groups."""
        count = size_bytes = infrequent_bytes = 0
        examples = list[Example]()
        for key, other, copies, size, infrequent in self._table.execute(
            "SELECT min(key), max(key), count(*), max(size), sum(infrequent) FROM entries WHERE content IS NOT NULL "
            "GROUP BY content HAVING count(*) > 1 ORDER BY (count(*) - 1) * max(size) DESC, 1"
        ):
            count += copies - 1
            size_bytes += (copies - 1) * size
            infrequent_bytes += min(infrequent, copies - 1) * size
            if len(examples) < limit:
                examples.append(Example(key, size, other, copies))
        return Part("duplicates", count, size_bytes, infrequent_bytes), examples

    def orphans(self, images: int) -> Part | None:
        """Sum those of `images` in all whose video is not there; None where most have none, so that names say nothing.

        Names are compared within a user. What no pattern reads has no video, and is not summed.
        """
        compared, orphans, size_bytes, infrequent_bytes = self._table.execute(
            "SELECT coalesce(sum(images), 0), coalesce(sum(images * alone), 0), coalesce(sum(bytes * alone), 0), "
            "coalesce(sum(infrequent * alone), 0) FROM (SELECT sum(kind = :image) AS images, "
            "sum(size * (kind = :image)) AS bytes, sum(size * infrequent * (kind = :image)) AS infrequent, "
            "sum(kind = :video) = 0 AS alone FROM entries WHERE stem IS NOT NULL GROUP BY stem)",
            {"video": Kind.VIDEO, "image": Kind.IMAGE},
        ).fetchone()
        if 2 * (compared - orphans) < images:
            return None
        unread = f", and {images - compared:,} that no pattern reads" if compared < images else ""
        return Part(f"images without their video{unread}", orphans, size_bytes, infrequent_bytes)

    def crowding(self) -> Crowding:
        """Count what patterns make of videos that are not of our own keys, as a sync does; `video` is a key of it."""
        self._table.execute(
            "CREATE TABLE videos AS SELECT min(key) AS key, user, count(*) AS files FROM entries "
            "WHERE video IS NOT NULL AND key NOT GLOB ? GROUP BY video",
            (_OWN,),
        )
        files, videos, most, key = self._table.execute(
            "SELECT coalesce(sum(files), 0), count(*), coalesce(max(files), 0), coalesce(key, '') FROM videos"
        ).fetchone()
        users = self._table.execute("SELECT user, count(*) FROM videos GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1")
        user, of_user = users.fetchone() or ("", 0)
        return Crowding(files, files - videos, most, key, videos, videos, of_user, user)

    def biggest(self, limit: int) -> list[Example]:
        """Name the largest objects."""
        rows = self._table.execute("SELECT key, size, kind FROM entries ORDER BY 2 DESC, 1 LIMIT ?", (limit,))
        return [Example(key, size, kind) for key, size, kind in rows]

    def draw(self, count: int, seed: int) -> list[str]:
        """Draw the keys of `count` videos, the same for the same listing and seed."""
        (videos,) = self._table.execute("SELECT count(*) FROM entries WHERE kind = ?", (Kind.VIDEO,)).fetchone()
        places = random.Random(seed).sample(range(videos), min(count, videos))  # noqa: S311  a sample, not a secret
        found = "SELECT key FROM entries WHERE kind = ? LIMIT 1 OFFSET ?"
        return [self._table.execute(found, (Kind.VIDEO, place)).fetchone()[0] for place in places]

    def _parts(self, query: str, values: dict[str, int] | tuple[()] = ()) -> Iterator[Part]:
        return map(Part._make, self._table.execute(query, values))


def _largest(parts: Iterator[Part], limit: int) -> tuple[list[Part], int]:
    """Return the first `limit` parts with a name, those without one, and the sum of the rest; count those with one."""
    shown, nameless, rest, count = list[Part](), list[Part](), Part(""), 0
    for part in parts:
        if part.name is None:
            nameless.append(part)
            continue
        count += 1
        if count <= limit:
            shown.append(part)
        else:
            rest = rest.plus(part)
    if rest.objects:
        shown.append(rest._replace(name=_REST.format(count=count - limit)))
    return shown + [part._replace(name="no user") for part in nameless], count
