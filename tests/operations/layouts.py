"""Buckets with various services' key layouts, and the expected result for each key."""

import unicodedata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import Grace
from reelkeeper.model.adoption import Adoption
from reelkeeper.model.ids import earlier_id, unique_id
from reelkeeper.model.key_patterns import DEFAULT_PATTERNS, compiled
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import survey
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, videos
from reelkeeper.store.tables import orphans as notes
from reelkeeper.store.videos.key_owners import import_keys
from tests.buckets import BUCKET, bare_boto3

LONG_NAME = "n" * 200
NFD = unicodedata.normalize("NFD", "ann/é.mp4")
CRAFTED = unique_id("intro", "u2", "intro")  # what u2's video is called where `intro` is another's


@dataclass(frozen=True)
class Layout:
    """A bucket: its keys with their sizes, what the service says of them, and what must become of each."""

    keys: Mapping[str, int]
    adopted: Mapping[str, tuple[str, str]]  # user and video
    out: Mapping[str, str]  # the reason
    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    csv: tuple[str, ...] = ()
    created: Mapping[str, datetime] = field(default_factory=dict)


def stored(*keys: str, size: int = 3) -> dict[str, int]:
    return dict.fromkeys(keys, size)


LAYOUTS = {
    "as before": Layout(
        {**stored("ann/one.mp4", "bob/film/final cut.MOV", "ann/g.h.webm", "notes.txt", "ann/thumb.jpg"), "ann/": 0},
        {"ann/one.mp4": ("ann", "one"), "bob/film/final cut.MOV": ("bob", "film"), "ann/g.h.webm": ("ann", "g.h")},
        {"notes.txt": "not_a_video", "ann/thumb.jpg": "not_a_video", "ann/": "folder"},
    ),
    "one name of three users": Layout(
        stored("u1/intro.mp4", "u2/intro.mp4", "u3/intro/x.mp4", "u1/outro.mp4"),
        {
            "u1/intro.mp4": ("u1", unique_id("intro", "u1", "intro")),
            "u2/intro.mp4": ("u2", CRAFTED),
            "u3/intro/x.mp4": ("u3", unique_id("intro", "u3", "intro")),
            "u1/outro.mp4": ("u1", "outro"),
        },
        {},
    ),
    "several files of one video": Layout(
        stored(
            "ann/v.mp4", "ann/v.n.mp4", "ann/v/x.mp4", "ann/v-2.mp4", "ann/v/x.n.mp4", "bob/w/2.mp4", "bob/w/10.mp4"
        ),
        {
            "ann/v.mp4": ("ann", "v"),
            "ann/v.n.mp4": ("ann", "v.n"),
            "ann/v-2.mp4": ("ann", "v-2"),
            "bob/w/10.mp4": ("bob", "w"),
        },
        {"ann/v/x.mp4": "another_file", "ann/v/x.n.mp4": "another_file", "bob/w/2.mp4": "another_file"},
    ),
    "names of any kind": Layout(
        stored(
            "jörg/日本 1.mp4",
            "ann/a b.mp4",
            "ann/a-b.mp4",
            "ann/x.versions.mp4",
            "bob/a b.mp4",
            "ann/🎬.mp4",
            "a@b/ c.mp4",
        ),
        {
            "jörg/日本 1.mp4": ("jörg", "日本 1"),
            "ann/a b.mp4": ("ann", unique_id("a b", "ann", "a b")),
            "bob/a b.mp4": ("bob", unique_id("a b", "bob", "a b")),
            "a@b/ c.mp4": ("a@b", earlier_id(" c", "a@b")),
            "ann/a-b.mp4": ("ann", "a-b"),
            "ann/x.versions.mp4": ("ann", "x.versions"),
            "ann/🎬.mp4": ("ann", "🎬"),
        },
        {},
    ),
    "keys as long as keys can be": Layout(
        stored(f"{LONG_NAME}/{LONG_NAME}.mp4", f"ann/{'é' * 100}.mp4", "THE LONGEST"),
        {
            f"{LONG_NAME}/{LONG_NAME}.mp4": (LONG_NAME, LONG_NAME),
            f"ann/{'é' * 100}.mp4": ("ann", "é" * 100),
            "THE LONGEST": ("ann", "long"),
        },
        {},
        patterns=("{user}/{video}.{ext}", "{user}/{video}/{any}/{any}/{any}/{any}/{any}.{ext}"),
    ),
    "by month, and owners from a CSV": Layout(
        stored("2024/01/a.mp4", "2024/02/b.mp4", "2024/02/c.mp4", "2024/13/d.mp4", "e.mp4"),
        {"2024/01/a.mp4": ("ann", "a"), "2024/02/b.mp4": ("bob", "film"), "e.mp4": ("ann", "e")},
        {"2024/02/c.mp4": "no_owner", "2024/13/d.mp4": "no_pattern"},
        patterns=("{year}/{month}/{video}.{ext}",),
        csv=("2024/01/a.mp4,,ann,", "2024/02/b.mp4,film,bob,2024-02-03T04:05:06Z", "e.mp4,,ann,"),
        created={
            "2024/01/a.mp4": datetime(2024, 2, 1, 12, tzinfo=UTC),
            "2024/02/b.mp4": datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC),
        },
    ),
    "mixed patterns, the first wins": Layout(
        stored("users/ann/outputs/a.mp4", "users/ann/b.mp4", "bob/c.mp4", "d.mp4", "users/e.mp4", "x/y/z/w.mp4"),
        {
            "users/ann/outputs/a.mp4": ("ann", "a"),
            "users/ann/b.mp4": ("users", "ann"),
            "bob/c.mp4": ("bob", "c"),
            "users/e.mp4": ("users", "e"),
        },
        {"d.mp4": "no_owner", "x/y/z/w.mp4": "no_pattern"},
        patterns=("users/{user}/outputs/{video}.{ext}", "{video}.{ext}", "{user}/{video}.{ext}", *DEFAULT_PATTERNS[1:]),
    ),
    "a flat folder of nobody knows whose": Layout(
        stored("a.mp4", "b.mp4", "c.bin", "d"),
        {"c.bin": ("ann", "c"), "d": ("ann", "film")},
        {"a.mp4": "no_owner", "b.mp4": "no_owner"},
        patterns=("{video}.{ext}",),
        csv=("c.bin,,ann,", "d,film,ann,", "b.mp4,only-an-id,,"),
    ),
    "hostile": Layout(
        {
            **stored("u1/intro.mp4", "u2/intro.mp4", f"u3/{CRAFTED}.mp4", "ann/._a.mp4", "ann/good.mp4", NFD),
            "ann/empty.mp4": 0,
            "ann/two.mp4": 0,
            "ann/two/real.mp4": 3,
        },
        {
            "u1/intro.mp4": ("u1", unique_id("intro", "u1", "intro")),
            "ann/good.mp4": ("ann", "good"),
            "ann/two/real.mp4": ("ann", "two"),
        },
        {
            "u2/intro.mp4": "id_taken",
            f"u3/{CRAFTED}.mp4": "id_taken",
            "ann/._a.mp4": "no_pattern",
            "ann/empty.mp4": "empty",
            "ann/two.mp4": "empty",
            NFD: "odd_key",
        },
    ),
    "keys that look like ours": Layout(
        stored(
            "ann/v/g1-0123456789abcdef.mp4",
            "ann/v/g3-0123456789abcdef.webm",
            "ann/v.mp4",
            "bob/v/g1-0123456789abcdef.mp4",
            "bob/w/g1-0123456789ABCDEF.mp4",
        ),
        {
            "ann/v/g3-0123456789abcdef.webm": ("ann", unique_id("v", "ann", "v")),
            "bob/v/g1-0123456789abcdef.mp4": ("bob", unique_id("v", "bob", "v")),
            "bob/w/g1-0123456789ABCDEF.mp4": ("bob", "w"),
        },
        {"ann/v/g1-0123456789abcdef.mp4": "leftover", "ann/v.mp4": "another_file"},
    ),
}


def put(at: Endpoint, prefix: str, keys: Mapping[str, int]) -> None:
    client = bare_boto3(at)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda row: client.put_object(Bucket=BUCKET, Key=prefix + row[0], Body=b"x" * row[1]), keys.items()
            )
        )


def longest(prefix: str) -> str:
    """Fill a key up to 1,024 bytes, in segments that each server takes."""
    middle = "/".join(["m" * 200] * 4)
    room = 1024 - len(f"{prefix}ann/long/{middle}/.mp4")
    return f"ann/long/{middle}/{'z' * room}.mp4"


def dry(workspace: Workspace, limits: AdoptionLimits = AdoptionLimits()) -> Adoption:
    return adoption.judge(workspace, survey(workspace, run_id="dry", note=True).scan_id, limits)


def act(
    workspace: Workspace, lease: Lease, limits: AdoptionLimits = AdoptionLimits()
) -> tuple[Adoption, int, int, int]:
    """Sync as `sync_catalog` does; return what was judged, adopted, left, and reported as in doubt."""
    found = survey(workspace, run_id="run", note=True)
    judged = adoption.judge(workspace, found.scan_id, limits)
    adopted, _ = orphans.adopt(workspace, found, lease=lease, run_id="run")
    sync.lose(workspace, found, lease=lease, run_id="run")
    sync.mend(workspace, found, lease=lease, run_id="run", grace=Grace())
    orphans.sweep(workspace, found, lease=lease, run_id="run", grace=Grace())
    left, _ = sync.finish(workspace, found, "good")
    return judged, adopted, left, orphans.tell(workspace, found)[0]


def catalogue(workspace: Workspace) -> dict[str, tuple[str, str]]:
    with reading(workspace.engine) as session:
        rows = session.execute(
            sa.select(blobs.c.key, videos.c.user_id, videos.c.id).join(videos, videos.c.blob_id == blobs.c.id)
        )
        return {row.key.removeprefix(workspace.bucket.prefix): (row.user_id, row.id) for row in rows}


def out_of(workspace: Workspace) -> dict[str, str]:
    with reading(workspace.engine) as session:
        rows = session.execute(sa.select(notes.c.key, notes.c.verdict))
        return {row.key.removeprefix(workspace.bucket.prefix): row.verdict for row in rows}


def hold(workspace: Workspace, at: Endpoint, lease: Lease, layout: Layout) -> None:
    """Fill the bucket, look, act, and act again under other patterns: all as the layout says, and as was foretold."""
    prefix = workspace.bucket.prefix
    last = longest(prefix)
    workspace = replace(workspace, layout=compiled(layout.patterns))
    put(at, prefix, {last if key == "THE LONGEST" else key: size for key, size in layout.keys.items()})
    if layout.csv:
        lines = ["key,video_id,user_id,created_at", *(f"{prefix}{line}" for line in layout.csv)]
        import_keys(workspace.engine, lines, str)
    foretold = dry(workspace)
    assert catalogue(workspace) == {}
    assert dry(workspace) == foretold
    judged, adopted, left, in_doubt = act(workspace, lease)
    assert judged == foretold
    wanted = {last if key == "THE LONGEST" else key: ids for key, ids in layout.adopted.items()}
    assert catalogue(workspace) == wanted
    assert out_of(workspace) == layout.out
    assert (adopted, left) == (judged.adopted, judged.kept_out) == (len(layout.adopted), len(layout.out))
    assert in_doubt == sum(why in {"another_file", "id_taken", "empty", "odd_key"} for why in layout.out.values())
    with reading(workspace.engine) as session:
        for key, created_at in layout.created.items():
            made = sa.select(videos.c.created_at).where(videos.c.id == wanted[key][1])
            assert session.execute(made).scalar_one() == created_at
    other = replace(workspace, layout=compiled(("{any}/{user}/{video}.{ext}", "{user}/{video}/{any}.{ext}")))
    again, adopted, *_, in_doubt = act(other, lease)
    assert (catalogue(workspace) | wanted, in_doubt) == (
        catalogue(workspace),
        0,
    )  # nothing is mapped anew, or told twice
    assert adopted == again.adopted
