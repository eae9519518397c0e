"""A user's export: one ZIP with all their rows, videos and images, and no others."""

import json
import stat
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from sqlmodel import SQLModel

from reelkeeper.errors import LeaseLost, NotFound
from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.billing.users import give, rename
from reelkeeper.operations.sync.survey import survey
from reelkeeper.operations.videos import images
from reelkeeper.operations.videos.export import export
from reelkeeper.operations.videos.hold import hold
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import (
    credit_holds,
    daily_views,
    former_ids,
    jobs,
    keeps,
    notices,
    reservations,
    storage_accounts,
    uploads,
    users,
    videos,
)
from reelkeeper.store.videos import user_data
from reelkeeper.store.videos.conditions import TAKEN_DOWN
from reelkeeper.store.videos.holds import HoldTerms
from reelkeeper.store.videos.user_data import LEFT_OUT, TABLES, _tables
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.jobs import put, waiting
from tests.marks import marked
from tests.operations.books import DOLLAR
from tests.worlds import AtFailpoint

PNG = b"\x89PNG\r\n\x1a\n a picture"


@pytest.fixture
def ann(world: World) -> World:
    """Ann has a live video, a retired one, one taken down, a job that began from an image; bob has a video, too."""
    world.video("v1")
    world.video("v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v3", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v4")
    sha256 = images.keep(world.workspace, PNG).sha256
    put(world.workspace.engine, [waiting("j")])
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="bob", created_at=LONG_AGO))
        session.execute(sa.update(videos).where(videos.c.id == "v4").values(user_id="bob"))
        session.execute(sa.update(videos).where(videos.c.id == "v3").values(retire_reason=TAKEN_DOWN))
        session.execute(
            sa.update(jobs).values(
                user_id="ann", request={"model": "m", "prompt": "ein Füchslein 🦊", "image_sha256": sha256}
            )
        )
        session.execute(sa.insert(daily_views).values(video_id="v1", day=LONG_AGO.date(), views=7))
    return world


def read(path: Path, table: str) -> list[dict[str, object]]:
    with zipfile.ZipFile(path) as archive:
        return [json.loads(line) for line in archive.read(f"data/{table}.jsonl").decode().splitlines()]


def test_an_export_of_a_user_who_is_renamed_meanwhile_is_none(
    ann: World, tmp_path: Path, at_failpoint: AtFailpoint
) -> None:
    target = tmp_path / "ann.zip"
    engine = ann.workspace.engine
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).values(state=JobState.DEAD))
    at_failpoint("export.read.before", lambda: rename(engine, "ann", "anna", by="ops", apply=True))
    with pytest.raises(LeaseLost):
        export(ann.workspace, "ann", target)
    assert not list(tmp_path.glob("ann.zip*"))
    done = export(ann.workspace, "ann", target)
    assert (done.videos, done.images) == (2, 1)


def test_an_export_has_only_this_users_rows_videos_and_images(ann: World, tmp_path: Path) -> None:
    target = tmp_path / "ann.zip"
    done = export(ann.workspace, "ann", target)
    assert (done.videos, done.images, done.missing) == (2, 1, ())
    assert {row["id"] for row in read(target, "videos")} == {"v1", "v2", "v3"}
    assert [row["request"]["prompt"] for row in read(target, "jobs")] == ["ein Füchslein 🦊"]  # type: ignore[index]  # JSON
    assert [(row["video_id"], row["views"]) for row in read(target, "views")] == [("v1", 7)]
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        kept = {name: archive.read(name) for name in archive.namelist() if not name.startswith("data/")}
    clip = ann.clip.read_bytes()
    assert kept.pop("videos/v1.mp4") == kept.pop("videos/v2.mp4") == clip
    assert list(kept.values()) == [PNG]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "ann.zip" in path.name or path.name.startswith(".export")] == [
        "ann.zip"
    ]


def test_of_two_users_who_have_something_in_each_table_each_gets_their_own(ann: World) -> None:
    """The rows of one, in any table, name nothing of the other."""
    engine = ann.workspace.engine
    put(engine, [waiting("k")])
    theirs = {"ann": ("v1", "j"), "bob": ("v4", "k")}
    for user, (video, job) in theirs.items():
        give(engine, user, DOLLAR, f"gift of {user}", by="front")
        for scope, subject in (("user", user), ("video", video)):
            hold(engine, HoldTerms(scope, subject, f"asked by {user}", "front"))
        mine, made = {"id": f"of {user}"}, {"id": f"of {user}", "created_at": LONG_AGO, "expires_at": LONG_AGO}
        upload = {"request_sha256": user, "video_id": f"new of {user}", "reservation_id": f"of {user}", "blob_id": 1}
        notice = {"video_id": video, "tier": "free", "days": 3, "rule": "cold", "run_id": f"run for {user}"}
        rows: dict[sa.Table, dict[str, object]] = {
            reservations: made | {"user_id": user, "state": "open", "size_bytes": 1},
            credit_holds: made | {"user_id": user, "state": "open", "amount_microusd": 1},
            uploads: mine | upload | {"video_created_at": LONG_AGO, "url_until": LONG_AGO},
            former_ids: {"id": f"earlier {user}", "user_id": user},
            notices: notice | {"given_at": LONG_AGO, "expires_at": LONG_AGO},
            keeps: mine | {"video_id": video, "author": user, "at": LONG_AGO, "days": 3, "until": LONG_AGO},
        }
        with transaction(engine, "test") as session:
            for table, row in rows.items():
                session.execute(sa.insert(table).values(row))
            if user == "bob":
                session.execute(sa.insert(storage_accounts).values(user_id=user))
                session.execute(sa.insert(daily_views).values(video_id=video, day=LONG_AGO.date(), views=7))
                session.execute(sa.update(jobs).where(jobs.c.id == job).values(user_id=user))
    for user, other in (("ann", "bob"), ("bob", "ann")):
        with reading(engine) as session:
            found = {name: json.dumps([*rows]) for name, rows in user_data.rows(session, user)}
        assert [name for name, text in found.items() if text == "[]"] == []
        words = [f'{word}"' for word in (other, theirs[other][0])]  # each value above ends with its owner's name
        assert [name for name, text in found.items() if any(word in text for word in words)] == []


def test_thumbnails_beside_the_users_videos_are_in_it_and_no_others(world: World, tmp_path: Path) -> None:
    prefix = world.address.prefix
    for video_id in ("v1", "v2", "v3"):
        world.video(video_id, key=f"{prefix}clips/{video_id}.mp4", stored=False)
    for name in ("v1.jpg", "v1_thumb_640x360.webp", "v10.jpg", "v2.jpg", "v3.jpg", "v1.mp4"):
        world.double.client.put_object(Bucket=BUCKET, Key=f"{prefix}clips/{name}", Body=name.encode())
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="bob", created_at=LONG_AGO))
        session.execute(sa.update(videos).where(videos.c.id == "v2").values(user_id="bob"))
        session.execute(sa.update(videos).where(videos.c.id == "v3").values(retire_reason=TAKEN_DOWN))
    survey(world.workspace, run_id="sync", note=True)
    assert export(world.workspace, "ann", tmp_path / "ann.zip").beside == 2
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        beside = {name: archive.read(name) for name in archive.namelist() if name.startswith("beside/")}
    assert beside == {f"beside/clips/{name}": name.encode() for name in ("v1.jpg", "v1_thumb_640x360.webp")}


def test_unreadable_objects_are_named_and_the_rest_is_exported(ann: World, tmp_path: Path) -> None:
    with transaction(ann.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(request={"image_sha256": "0" * 64}))
        session.execute(sa.text("UPDATE blobs SET key = replace(key, '/v2/', '/gone/') WHERE video_id = 'v2'"))
    done = export(ann.workspace, "ann", tmp_path / "ann.zip")
    assert (done.videos, done.images) == (1, 0)
    assert [text.split(":")[0] for text in done.missing] == [
        "video v2",
        snapshot("image 0000000000000000000000000000000000000000000000000000000000000000"),
    ]


def test_no_earlier_export_is_overwritten_and_an_unknown_user_is_refused(ann: World, tmp_path: Path) -> None:
    target = tmp_path / "ann.zip"
    target.write_bytes(b"an earlier export")
    with pytest.raises(FileExistsError) as refused:
        export(ann.workspace, "ann", target)
    assert marked(refused.value, FILE=target) == snapshot("FILE already exists; choose another file")
    assert target.read_bytes() == b"an earlier export"
    with pytest.raises(NotFound):
        export(ann.workspace, "nobody", tmp_path / "nobody.zip")
    assert not (tmp_path / "nobody.zip").exists()


def test_each_table_that_names_a_user_or_a_video_is_in_it_or_left_out_for_a_reason() -> None:
    tables = SQLModel.metadata.tables
    personal = {name for name, table in tables.items() if {"user_id", "video_id"} & set(table.c.keys())}
    exported = {source.name for query in _tables("ann").values() for source in query.get_final_froms()}  # type: ignore[attr-defined]  # tables have names
    assert len(exported) == len(TABLES)
    assert personal - exported == LEFT_OUT.keys()


def test_videos_that_only_case_or_odd_characters_tell_apart_stay_apart(world: World, tmp_path: Path) -> None:
    for video_id in ("clip", "CLIP", "../clip", "a:b", "con?"):
        world.video(video_id)
    export(world.workspace, "ann", tmp_path / "ann.zip")
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        names = [Path(name) for name in archive.namelist() if name.startswith("videos/")]
    assert len({str(name).casefold() for name in names}) == 5
    assert {name.stem for name in names} >= {"=2E.=2Fclip", "a=3Ab", "con=3F"}
