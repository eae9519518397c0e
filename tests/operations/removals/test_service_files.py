"""The service's own files, such as thumbnails: an export has a user's, and an erasure lists or deletes them."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.errors import Frozen
from reelkeeper.model.ids import earlier_id
from reelkeeper.model.key_patterns import compiled
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.removals.erase import Erasure, erase, foresee
from reelkeeper.operations.sync.survey import survey
from reelkeeper.operations.videos import images
from reelkeeper.operations.videos.export import export
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.service_files import Belongs, ServiceFile, of_user
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import former_ids, key_owners, orphans, users, videos
from reelkeeper.store.videos.conditions import TAKEN_DOWN
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.jobs import put as put_jobs
from tests.jobs import waiting
from tests.worlds import AtFailpoint

OF_ANN = ("ann/v1.jpg", "ann/v1_thumb.webp", "ann/gone.jpg", "ann/v1/sprite.vtt")
OF_OTHERS = ("bob/v1.jpg", "ann2/v1.jpg", "Ann/v1.jpg", "ann/bobs.jpg", "ann/bobs-thumb.jpg", "v1.jpg")


def put(world: World, *names: str) -> None:
    for name in names:
        world.double.client.put_object(Bucket=BUCKET, Key=world.address.prefix + name, Body=name.encode())


def names(world: World, files: list[ServiceFile]) -> set[str]:
    return {file.key.removeprefix(world.address.prefix) for file in files}


def stored(world: World) -> set[str]:
    found = world.double.client.list_objects_v2(Bucket=BUCKET, Prefix=world.address.prefix)["Contents"]
    return {item["Key"].removeprefix(world.address.prefix) for item in found}


def gone(world: World, *, with_files: bool = False) -> Erasure:
    return erase(
        world.workspace, "ann", by="front", run_id="erase-1", settings=Settings(), wait_seconds=0, with_files=with_files
    )


@pytest.fixture
def ann(world: World) -> World:
    """Ann has a video at the service's key, and bob has one that a CSV named his, in ann's folder."""
    prefix = world.address.prefix
    world.video("v1", key=f"{prefix}ann/v1.mp4")
    world.video("bobs", key=f"{prefix}ann/bobs.MP4", stored=False)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="bob", created_at=LONG_AGO))
        session.execute(sa.update(videos).where(videos.c.id == "bobs").values(user_id="bob"))
    put(world, *OF_ANN, *OF_OTHERS)
    return world


@pytest.mark.parametrize("is_listed", [True, False])
def test_all_files_of_the_services_under_a_users_keys_are_known_and_no_others(ann: World, *, is_listed: bool) -> None:
    if is_listed:
        survey(ann.workspace, run_id="sync", note=True)
    found = of_user(ann.workspace, "ann")
    assert names(ann, found) == set(OF_ANN)
    assert {(file.by, file.is_down) for file in found} == {(Belongs.PATTERN, False)}
    assert {file.size_bytes for file in found} == {len(name) for name in OF_ANN}


def test_an_export_has_the_files_whose_video_is_gone(ann: World, tmp_path: Path) -> None:
    assert export(ann.workspace, "ann", tmp_path / "ann.zip").beside == len(OF_ANN)
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        assert {name for name in archive.namelist() if name.startswith("beside/")} == {f"beside/{n}" for n in OF_ANN}


def test_an_erasure_says_before_what_it_deletes_and_after_what_stays(ann: World) -> None:
    survey(ann.workspace, run_id="sync", note=True)
    sha256 = images.keep(ann.workspace, b"\x89PNG\r\n\x1a\n a picture").sha256
    put_jobs(ann.workspace.engine, [waiting("j", state="cancelled", request={"image_sha256": sha256})])
    before = foresee(ann.workspace, "ann")
    assert before[:3] == (1, 2, ann.clip.stat().st_size + 18)
    assert names(ann, list(before.files)) == set(OF_ANN)
    done = gone(ann)
    assert (done.left, names(ann, list(done.files)), done.files_deleted) == ((), set(OF_ANN), 0)
    assert stored(ann) >= {*OF_ANN, *OF_OTHERS}
    with reading(ann.workspace.engine) as session:
        noted = set(session.execute(sa.select(orphans.c.key)).scalars())
    assert not {file.key for file in before.files} & noted


def test_an_erasure_that_is_told_to_deletes_the_files_in_the_users_folder_and_no_others(ann: World) -> None:
    survey(ann.workspace, run_id="sync", note=True)
    put(ann, "ann/a/b/deep.jpg")  # no pattern reads it
    done = gone(ann, with_files=True)
    assert (done.left, done.files_deleted) == ((), len(OF_ANN))
    assert [(file.by, names(ann, [file])) for file in done.files] == [(Belongs.FOLDER, {"ann/a/b/deep.jpg"})]
    assert stored(ann) >= {*OF_OTHERS, "ann/a/b/deep.jpg"}
    assert not stored(ann) & {*OF_ANN}


def test_what_ends_like_a_video_in_the_users_folder_and_no_pattern_reads_is_listed_and_stays(
    ann: World, tmp_path: Path
) -> None:
    deep = {"ann/2026/11/vid_deep01.mp4", "ann/2026/11/"}
    others = ("ann2/2026/11/x.mp4", "ann@example.com/2026/11/x.mp4", "Ann/2026/11/x.mp4")
    put(ann, "ann/2026/11/vid_deep01.mp4", "ann/2026/11/", *others)
    survey(ann.workspace, run_id="sync", note=True)
    deep &= stored(ann)  # SeaweedFS hides the marker of a folder that has objects
    assert names(ann, list(foresee(ann.workspace, "ann").files)) == {*OF_ANN, *deep}
    assert set(export(ann.workspace, "ann", tmp_path / "ann.zip").left_out) == {
        ann.address.prefix + key for key in deep
    }
    done = gone(ann, with_files=True)
    assert (done.left, done.files_deleted) == ((), len(OF_ANN))
    assert (names(ann, list(done.files)), {file.by for file in done.files}) == (deep, {Belongs.FOLDER})
    assert stored(ann) >= {*deep, *others, *OF_OTHERS}
    with reading(ann.workspace.engine) as session:
        assert not {ann.address.prefix + key for key in deep} & {*session.execute(sa.select(orphans.c.key)).scalars()}


def test_objects_without_a_row_are_asked_about_exported_and_deleted_alike(ann: World, tmp_path: Path) -> None:
    others = {"ann2/v1.webm", "ann@example.com/v1.webm", "bob/fresh.mp4", "annie/fresh.mp4"}
    ann.video("v3", key=f"{ann.address.prefix}ann/v3.mp4", stored=False)
    with transaction(ann.workspace.engine, "test") as session:
        session.execute(sa.update(videos).where(videos.c.id == "v3").values(retire_reason=TAKEN_DOWN))
        session.execute(sa.insert(former_ids).values(id="bob", user_id="ann"))  # another has this id now
    put(ann, "ann/v1.webm", "ann/v3.webm", *others)
    ann.double.client.put_object(Bucket=BUCKET, Key=f"{ann.address.prefix}ann/empty.mp4", Body=b"")
    survey(ann.workspace, run_id="sync", note=True)
    before = foresee(ann.workspace, "ann")
    rows = 2  # v1, and v3, as the catalogue has it
    assert before.objects - rows == len({"v1.webm", "v3.webm", "empty.mp4"})
    assert names(ann, list(before.files)) == set(OF_ANN)
    export(ann.workspace, "ann", tmp_path / "ann.zip")
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        beside = {name.removeprefix("beside/") for name in archive.namelist() if name.startswith("beside/")}
    assert beside == {*OF_ANN, "ann/v1.webm", "ann/empty.mp4"}
    assert not gone(ann).left
    left = stored(ann)
    assert left >= {*others, *OF_ANN, *OF_OTHERS}
    assert not left & {"ann/v1.mp4", "ann/v1.webm", "ann/v3.webm", "ann/empty.mp4"}


OF_ANN_BEGUN = {"ann/big.mp4": Belongs.PATTERN, "ann/v1.mp4": Belongs.PATTERN, "ann/a/b/deep.mp4": Belongs.FOLDER}
OF_OTHERS_BEGUN = {"ann2/v1.mp4", "ann@example.com/v1.mp4", "bob/v1.mp4", "ann/bobs.MP4"}


def begin(world: World, *names: str) -> None:
    client = world.double.client
    for name in names:
        key = world.address.prefix + name
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 1000)


@pytest.fixture
def begun(ann: World) -> World:
    """Uploads that the service began and never completed, at keys of ann's and of others."""
    begin(ann, *OF_ANN_BEGUN, *OF_OTHERS_BEGUN)
    return ann


LOWER = {  # by patterns that have the users' folders further down
    "u/ann/2026/11/v7.jpg": Belongs.PATTERN,
    "u/ann/thumbs/v7.jpg": Belongs.FOLDER,
    "u/ann/tmp/v8.mp4": Belongs.FOLDER,
}
LOWER_BEGUN = {
    "u/ann/2026/11/big.mp4": Belongs.PATTERN,
    "u/ann/tmp/v9.mp4": Belongs.FOLDER,
    "2026/ann/old.mp4": Belongs.PATTERN,
    "2026/ann-raw.mp4": Belongs.NAME,
}


@pytest.mark.parametrize("is_listed", [True, False])
def test_files_and_uploads_are_found_wherever_a_pattern_has_the_users(
    ann: World, tmp_path: Path, *, is_listed: bool
) -> None:
    patterns = ["u/{user}/{year}/{month}/{video}.{ext}", "{year}/{user}/{video}.{ext}", "{year}/{user}-{video}.{ext}"]
    lower, prefix = replace(ann.workspace, layout=compiled(patterns)), ann.address.prefix
    others = ("u/ann2/2026/11/v7.jpg", "u/bob/thumbs/v7.jpg", "u/ann/2026/11/theirs.mp4")
    put(ann, *LOWER, *others, "u/ann/2026/11/loose.mp4")
    begin(ann, *LOWER_BEGUN, "u/bob/2026/11/big.mp4", "2026/bob/old.mp4", "u/annie/2026/11/big.mp4")
    with transaction(ann.workspace.engine, "test") as session:
        session.execute(sa.insert(key_owners).values(key=f"{prefix}u/ann/2026/11/theirs.mp4", user_id="bob"))
    if is_listed:
        survey(lower, run_id="sync", note=True)
    before = foresee(lower, "ann")
    told = {
        file.key.removeprefix(prefix): file.by
        for file in before.files
        if file.key.startswith((f"{prefix}u/", f"{prefix}2026"))
    }
    assert told == LOWER | LOWER_BEGUN
    assert before.objects == 1 + len({"loose.mp4"})
    done = export(lower, "ann", tmp_path / "ann.zip")
    left = {key.removeprefix(prefix) for key in done.left_out if not key.startswith(f"{prefix}ann/")}
    assert left == {"u/ann/thumbs/v7.jpg", "u/ann/tmp/v8.mp4", *LOWER_BEGUN}
    erased = erase(lower, "ann", by="front", run_id="e", settings=Settings(), wait_seconds=0, with_files=True)
    assert not erased.left
    assert stored(ann) >= {*others, "u/ann/thumbs/v7.jpg", "u/ann/tmp/v8.mp4"}
    assert not stored(ann) & {"u/ann/2026/11/v7.jpg", "u/ann/2026/11/loose.mp4"}
    assert not unfinished(ann) & {"u/ann/2026/11/big.mp4", "2026/ann/old.mp4"}
    assert unfinished(ann) >= {"2026/ann-raw.mp4", "u/bob/2026/11/big.mp4", "2026/bob/old.mp4"}


def unfinished(world: World) -> set[str]:
    prefix = world.address.prefix
    return {key.removeprefix(prefix) for key, _ in world.workspace.bucket.look().uploads(prefix)}


def test_unfinished_uploads_are_told_before_and_stay_unless_files_are_deleted(begun: World, tmp_path: Path) -> None:
    before = foresee(begun.workspace, "ann")
    told = {file.key.removeprefix(begun.address.prefix): file.by for file in before.files if file.upload_id}
    assert (told, before.uploads_unknown) == (OF_ANN_BEGUN, False)
    assert {file.size_bytes for file in before.files if file.upload_id} == {1000}
    left_out = export(begun.workspace, "ann", tmp_path / "ann.zip").left_out
    assert set(left_out) == {begun.address.prefix + name for name in OF_ANN_BEGUN}
    done = gone(begun)
    assert (done.left, done.files_deleted) == ((), 0)
    assert {file.key.removeprefix(begun.address.prefix) for file in done.files if file.upload_id} == {*OF_ANN_BEGUN}
    assert unfinished(begun) == {*OF_ANN_BEGUN, *OF_OTHERS_BEGUN}


def test_unfinished_uploads_at_keys_that_a_pattern_reads_are_aborted_with_the_files(begun: World) -> None:
    done = gone(begun, with_files=True)
    assert (done.left, done.files_deleted) == ((), len(OF_ANN) + 2)
    assert unfinished(begun) == {"ann/a/b/deep.mp4", *OF_OTHERS_BEGUN}
    assert names(begun, list(done.files)) == {"ann/a/b/deep.mp4"}


def test_a_legal_hold_keeps_unfinished_uploads(begun: World, at_failpoint: AtFailpoint) -> None:
    terms = HoldTerms("user", "ann", "evidence", "counsel", is_legal=True)
    at_failpoint("erase.abort.before", lambda: hold(begun.workspace.engine, terms))
    done = gone(begun, with_files=True)
    assert (len(done.left), done.files_deleted) == (1, len(OF_ANN) + 1)
    assert len(unfinished(begun) & {"ann/big.mp4", "ann/v1.mp4"}) == 1
    assert gone(begun, with_files=True).files_deleted == 0


def test_a_freeze_keeps_the_unfinished_uploads_that_are_left(begun: World, at_failpoint: AtFailpoint) -> None:
    at_failpoint("erase.abort.before", lambda: freeze(begun.workspace.engine, by="test", reason="an alarm"))
    with pytest.raises(Frozen):
        gone(begun, with_files=True)
    assert len(unfinished(begun) & {"ann/big.mp4", "ann/v1.mp4"}) == 1


def test_an_export_lacks_what_only_a_folder_names(ann: World, tmp_path: Path) -> None:
    put(ann, "ann/a/b/deep.jpg")
    assert len(of_user(ann.workspace, "ann")) == len(OF_ANN) + 1
    done = export(ann.workspace, "ann", tmp_path / "ann.zip")
    assert (done.beside, done.left_out) == (len(OF_ANN), (f"{ann.address.prefix}ann/a/b/deep.jpg",))


def test_files_are_deleted_last_when_no_legal_hold_keeps_a_video(ann: World) -> None:
    hold(ann.workspace.engine, HoldTerms("video", "v1", "evidence", "counsel", is_legal=True))
    done = gone(ann, with_files=True)
    assert [item.key for item in done.left] == [f"{ann.address.prefix}ann/v1.mp4"]
    assert done.files_deleted == 0
    assert stored(ann) >= {*OF_ANN}


def test_a_file_beside_a_video_elsewhere_is_the_users_and_only_listed(ann: World) -> None:
    ann.video("v5", key=f"{ann.address.prefix}clips/v5.mp4", stored=False)
    put(ann, "clips/v5.jpg")
    survey(ann.workspace, run_id="sync", note=True)
    done = gone(ann, with_files=True)
    assert [(file.by, names(ann, [file])) for file in done.files] == [(Belongs.NAME, {"clips/v5.jpg"})]


def test_where_keys_have_no_folder_of_a_user_nothing_of_the_services_is_deleted(ann: World) -> None:
    flat = replace(ann.workspace, layout=compiled(["2026/{user}-{video}.{ext}"]))
    put(ann, "2026/ann-v7.jpg", "2026/ann-b-v7.jpg", "2026/bob-v7.jpg")
    survey(flat, run_id="sync", note=True)
    found = {file.key.removeprefix(ann.address.prefix): file.by for file in of_user(flat, "ann")}
    dated = {key: by for key, by in found.items() if key.startswith("2026")}
    assert dated == {"2026/ann-v7.jpg": Belongs.NAME, "2026/ann-b-v7.jpg": Belongs.NAME}
    done = erase(flat, "ann", by="front", run_id="e", settings=Settings(), wait_seconds=0, with_files=True)
    assert done.files_deleted == 0


def test_files_beside_what_was_taken_down_are_not_exported_and_are_erased(ann: World, tmp_path: Path) -> None:
    ann.video("v3", key=f"{ann.address.prefix}ann/v3.mp4", stored=False)
    ann.video("v4", stored=False)  # at a key of ours
    with transaction(ann.workspace.engine, "test") as session:
        down = videos.c.id.in_(["v3", "v4"])
        session.execute(sa.update(videos).where(down).values(retire_reason=TAKEN_DOWN))
    put(ann, "ann/v3_thumb.jpg", "ann/v4.jpg", "ann/v4/frame.jpg")
    assert sum(file.is_down for file in of_user(ann.workspace, "ann")) == 3
    assert export(ann.workspace, "ann", tmp_path / "ann.zip").beside == len(OF_ANN)


def test_a_folder_of_a_former_id_is_the_users_unless_another_has_that_id_now(ann: World) -> None:
    with transaction(ann.workspace.engine, "test") as session:
        session.execute(sa.insert(former_ids), [{"id": name, "user_id": "ann"} for name in ("annie", "bob")])
    put(ann, "annie/v9.jpg")
    assert names(ann, of_user(ann.workspace, "ann")) == {*OF_ANN, "annie/v9.jpg"}


def test_a_user_under_an_id_that_an_earlier_version_made_has_the_folder_with_the_true_name(ann: World) -> None:
    made, prefix = earlier_id("zoe@example.com"), ann.address.prefix
    ann.video("v8", key=f"{prefix}zoe@example.com/v8.mp4", stored=False)
    with transaction(ann.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id=made, created_at=LONG_AGO))
        session.execute(sa.insert(former_ids).values(id=made, user_id=made))
        session.execute(sa.update(videos).where(videos.c.id == "v8").values(user_id=made))
        session.execute(sa.insert(key_owners).values(key=f"{prefix}zoe@example.com/theirs.jpg", user_id="bob"))
    put(ann, "zoe@example.com/v8.jpg", "zoe@example.com/theirs.jpg")
    assert names(ann, of_user(ann.workspace, made)) == {"zoe@example.com/v8.jpg"}
    with transaction(ann.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="zoe@example.com", created_at=LONG_AGO))
    assert [file.by for file in of_user(ann.workspace, made) if file.by == Belongs.PATTERN] == []
