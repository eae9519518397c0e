"""Ten texts that only one user has written or owned are nowhere to be found after the user's erasure.

Searched are the whole store (each table as text, the database's file and a backup), the bucket (keys, metadata and
bytes), what was logged, the files that the server has left, and the exports of another user.
"""

import hashlib
import io
import logging
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from sqlmodel import SQLModel

from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.requests import GenerationRequest, Incoming, Queued
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts import alerts, webhooks
from reelkeeper.operations.billing import users
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs import claim, settle
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.operations.videos import images, receive
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.upload import upload
from reelkeeper.operations.videos.views import show
from reelkeeper.store.core.audit import verify
from reelkeeper.store.core.backup import backup
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import key_owners, orphans, policy_versions, uploads
from reelkeeper.store.videos.holds import HoldTerms
from tests.faults.world import LONG_AGO, World
from tests.operations.books import DOLLAR
from tests.operations.changes import sync_once

PICTURE = b"\x89PNG\r\n\x1a\n canary-7 of a face"
USER = "canary-1-user"
CANARIES = {
    "user id": USER,
    "prompt": "canary-2 in the snow",
    "idempotency key": "canary-3-key",
    "key of an object": "canary-4-holiday",
    "tag": "canary-5-tag",
    "reason of a hold": "canary-6 sues his landlord",
    "image": hashlib.sha256(PICTURE).hexdigest(),
    "refused request": "canary-8 was refused",
    "name of an upload": "canary-9-upload",
    "reason of a gift": "canary-10 was ill",
}
SMALL = {"model": "sketch-1", "width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}


def ask(world: World, prompt: str, key: str, **more: object) -> str:
    request = GenerationRequest.model_validate({**SMALL, "prompt": prompt, **more})
    answer = admit(world.workspace.engine, request, user_id=USER, client_key=key)
    assert isinstance(answer, Queued), answer
    return answer.job_id


def live(world: World) -> None:
    """Let the user do everything that users can do, and let others mention the user."""
    engine, bucket = world.workspace.engine, world.workspace.bucket
    webhooks.add(engine, "https://127.0.0.1/hook", allow_private=True, author="test")
    users.put(engine, USER, "free", by="front")
    users.give(engine, USER, DOLLAR, CANARIES["idempotency key"], by="front", reason=CANARIES["reason of a gift"])
    with LeaseManager(engine) as manager:
        name = CANARIES["name of an upload"]
        (lease,) = manager.take([f"video/{name}"])
        upload(
            world.workspace,
            world.clip,
            Incoming(USER, name, datetime(2026, 11, 1, tzinfo=UTC)),
            scratch=Path(world.address.folder) / "scratch",
            lease=lease,
            run_id="add",
            grace=world.workspace.in_force.policies.lifecycle.grace,
        )
        bucket.put_once(f"{world.address.prefix}{USER}/{CANARIES['key of an object']}.mp4", world.clip, "video/mp4")
        sync_once(world, lease)
    show(world.workspace, name, url_seconds=60)
    image = images.keep(world.workspace, PICTURE).sha256
    ask(world, CANARIES["prompt"], CANARIES["idempotency key"], image_sha256=image)
    refused = ask(world, f"another {CANARIES['prompt']}", "refused", parameters={"tag": CANARIES["tag"]})
    claimed = next(item for item in claim.claim(engine, "worker", [None] * 5, limit=9) if item.id == refused)
    settle.fail(
        engine, Attempt(refused, claimed.lease_token, cost_microusd=3), CANARIES["refused request"], run_id="run"
    )
    announced = receive.Announced(USER, f"{name}-late", 100, "0" * 32, "mp4")
    late, _ = receive.begin(world.workspace, announced, "late", url_seconds=1)
    bucket.put_bytes_once(late.key, b"a late upload", "video/mp4")
    with transaction(engine, "test") as session:  # no bucket takes it any more, whatever its clock says
        session.execute(sa.update(uploads).values(url_until=LONG_AGO))
    hold(engine, HoldTerms("video", name, CANARIES["reason of a hold"], "front"))
    users.put(engine, "bob", "free", by="front")
    hold(engine, HoldTerms("user", "bob", f"{USER} sues him", "front"))
    hold(engine, HoldTerms("user", "bob", USER, "front"))
    users.give(engine, "bob", DOLLAR, "of-bob", by="front", reason=f"for {USER}'s sake")
    said = f"user {USER} stores much, such as {name}"
    alerts.observe(
        engine, [Finding("saving", f"user:{USER}", Severity.NOTICE, said, said)], rules=["saving"], run_id="run"
    )
    alerts.snooze(engine, "saving", scope=f"user:{USER}", seconds=60, author="test", reason=f"{USER} was asked")
    with transaction(engine, "test") as session:
        session.execute(sa.insert(key_owners).values(key=f"other/{USER}.mp4", user_id=USER))
        document = {"admission": {"spend_limits": [{"scope": f"user:{USER}", "period": "day", "usd": 5}]}}
        row = {"version": 1, "digest": "d", "document": document, "author": "test", "reason": f"{USER} spends much"}
        session.execute(sa.insert(policy_versions).values(**row, created_at=datetime(2026, 11, 1, tzinfo=UTC)))
        session.execute(
            sa.insert(orphans).values(
                key=f"{world.address.prefix}{USER}/x.txt",
                size_bytes=1,
                etag="e",
                last_modified=datetime(2026, 11, 1, tzinfo=UTC),
                first_seen_at=datetime(2026, 11, 1, tzinfo=UTC),
                last_seen_at=datetime(2026, 11, 1, tzinfo=UTC),
                user_id=USER,
            )
        )


def in_the_store(world: World) -> Iterator[tuple[str, bytes]]:
    engine, folder = world.workspace.engine, Path(world.address.folder)
    with reading(engine) as session:
        for table in SQLModel.metadata.sorted_tables:
            yield table.name, repr(list(session.execute(sa.select(table)))).encode()
    if engine.dialect.name == "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            driver = connection.connection.cursor()
            driver.execute("VACUUM")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield "the database's file", Path(str(engine.url.database)).read_bytes()
    copy = backup(engine, folder / f"backup-{len(list(folder.iterdir()))}")
    if zipfile.is_zipfile(copy):
        with zipfile.ZipFile(copy) as archive:
            yield from ((f"backup: {name}", archive.read(name)) for name in archive.namelist())
    else:
        yield "backup", copy.read_bytes()


def in_the_bucket(world: World) -> Iterator[tuple[str, bytes]]:
    client, name = world.double.client, world.workspace.bucket.name
    for item in client.list_objects_v2(Bucket=name, Prefix=world.address.prefix).get("Contents", []):
        found = client.get_object(Bucket=name, Key=item["Key"])
        yield item["Key"], f"{item['Key']} {found['Metadata']} {found['ResponseMetadata']}".encode()
        yield item["Key"], found["Body"].read()


def showing(left: Iterator[tuple[str, bytes]]) -> dict[str, list[str]]:
    """Name the places that show each canary."""
    found: dict[str, list[str]] = {name: [] for name in CANARIES}
    for where, what in left:
        for name, canary in CANARIES.items():
            if canary.encode() in what:
                found[name].append(where)
    return found


@pytest.mark.long
def test_none_of_ten_canaries_is_found_after_their_user_is_erased(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    engine, scratch = world.workspace.engine, Path(world.address.folder) / "scratch"
    _, text = tokens.create(engine, "front", tuple(Scope), author="test")
    app = create_app(AppState(world.workspace, scratch))
    with TestClient(app, headers={"Authorization": f"Bearer {text}"}) as client:
        of_the_client = caplog.at_level(logging.WARNING, "httpx")  # the test's own, not the server's
        with caplog.at_level(logging.INFO), of_the_client:
            live(world)
            before = showing(in_the_store(world))
            assert all(before.values()), before
            copy = client.get(f"/v1/users/{USER}/export")
            with zipfile.ZipFile(io.BytesIO(copy.content)) as archive:
                mine = showing((name, archive.read(name)) for name in archive.namelist())
            assert mine["prompt"], "what the user takes away is whole"
            done = client.delete(f"/v1/users/{USER}").json()
            for _ in range(20):
                if done.get("state") == "erased":
                    break
                settle_what_is_at_work(world)
                done = client.delete(f"/v1/users/{USER}").json()
            assert done.get("state") == "erased", done
            others = client.get("/v1/users/ann/export").content
    with zipfile.ZipFile(io.BytesIO(others)) as archive:
        theirs = [(f"export: {name}", archive.read(name)) for name in archive.namelist()]
    files = [(str(path), path.read_bytes()) for path in scratch.rglob("*") if path.is_file()]
    logged = [("log", caplog.text.encode())]
    left = (*in_the_store(world), *in_the_bucket(world), *theirs, *files, *logged)
    assert showing(iter(left)) == {name: [] for name in CANARIES}
    assert accounts.recount(engine) == []
    with reading(engine) as session:
        assert verify(session) > 0
    world.check()


def settle_what_is_at_work(world: World) -> None:
    """End claimed jobs that are to be cancelled, as their worker does."""
    with reading(world.workspace.engine) as session:
        rows = session.execute(sa.text("SELECT id, lease_token FROM jobs WHERE state = 'running'")).all()
    for job_id, token in rows:
        settle.fail(world.workspace.engine, Attempt(job_id, token), "cancelled", run_id="run")
