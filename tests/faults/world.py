"""A small world for the fault suites: a store, a bucket behind R2's rules, sentinels outside its prefix, and the master
property that must hold after every kill.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, StoredObject, VideoState
from reelkeeper.operations.core.workspace import Workspace, join
from reelkeeper.store.billing import quotas, recount
from reelkeeper.store.core import audit, deployment
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.tables import (
    audit_events,
    blobs,
    leases,
    operations,
    orphans,
    plans,
    users,
    verdicts,
    videos,
)
from reelkeeper.store.videos.conditions import replaced_by
from tests.buckets import BUCKET
from tests.doubles.r2 import R2Double

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
PART_BYTES = 5 * 2**20  # the least that S3 takes for all parts but the last
_OURS = re.compile(r"/g[0-9]+-[0-9a-f]{16}\.")
_DURATIONS: dict[str, tuple[int, float]] = {}  # sha256 -> decoded frames and seconds: equal bytes decode alike


@dataclass(frozen=True)
class Address:
    """All that a child process needs to open the same world."""

    store_url: str
    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    prefix: str
    folder: str

    def workspace(self, engine: sa.Engine | None = None) -> Workspace:
        bucket = r2.connect(self.endpoint_url, self.access_key_id, self.secret_access_key, BUCKET, self.prefix)
        return join(engine or open_engine(self.store_url), bucket, keeps_contract=True)


@dataclass
class World:
    """One deployment with a few videos, as a test arranges it."""

    address: Address
    double: R2Double
    clip: Path
    workspace: Workspace
    outside: r2.Bucket
    sentinels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, store_url: str, at: Endpoint, double: R2Double, *, clip: Path) -> "World":
        name = folder.name
        address = Address(
            store_url,
            double.endpoint.endpoint_url,
            at.access_key_id,
            at.secret_access_key,
            f"{name}/videos/",
            str(folder),
        )
        outside = _whole_bucket(at.endpoint_url, at.access_key_id, at.secret_access_key).under(f"{name}/")
        engine, ours = open_engine(store_url), outside.under(address.prefix)
        with reading(engine) as session:
            owner = json.dumps({"deployment": deployment.identity(session)}).encode()
        ours.put_bytes_once(ours.identity_key, owner, "application/json")  # to claim it takes four requests
        world = cls(address, double, clip, address.workspace(engine), outside)
        for key in ("video", "videos.mp4", "videos2/u/v.mp4", "other/g1.mp4"):
            put = outside.put_bytes_once(f"{name}/{key}", key.encode(), "text/plain")
            world.sentinels[put.key] = put.etag
        with transaction(world.workspace.engine, "test") as session:
            session.execute(sa.insert(users).values(id="ann", tier="free", created_at=LONG_AGO))
        return world

    def video(
        self,
        video_id: str,
        *,
        state: VideoState = VideoState.LIVE,
        blob_state: BlobState = BlobState.LIVE,
        generation: int = 1,
        clip: Path | None = None,
        due: bool = False,
        key: str | None = None,
        current: bool = True,
        stored: bool = True,
        run_id: str | None = None,
        recipe: str | None = None,
        in_parts: bool = False,
    ) -> int:
        """Add a video (or, if not `current`, one more blob of it) whose object is stored; return the blob's id."""
        clip = clip or self.clip
        data = clip.read_bytes()
        key = key or blob_key(self.address.prefix, "ann", video_id, generation, clip.suffix[1:])
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if in_parts:
            etag = self.put_in_parts(key, data)
        elif stored:
            self.workspace.bucket.put_once(key, clip, "video/mp4")
        is_ours = bool(_OURS.search(key))
        standing = None if is_ours else self.workspace.bucket.head(key)
        frames, seconds = decoded(clip)
        retired = blob_state == BlobState.RETIRED
        with transaction(self.workspace.engine, "test") as session, quotas.counted(session, [video_id]):
            if not session.execute(sa.select(videos.c.id).where(videos.c.id == video_id)).scalar():
                session.execute(
                    sa.insert(videos).values(
                        id=video_id,
                        user_id="ann",
                        generation=generation,
                        state=state,
                        created_at=LONG_AGO,
                        retired_at=LONG_AGO if state == VideoState.RETIRED else None,
                        run_id=run_id,
                    )
                )
            blob_id: int = session.execute(
                sa.insert(blobs)
                .values(
                    video_id=video_id,
                    generation=generation,
                    key=key,
                    state=blob_state,
                    size_bytes=len(data),
                    etag=etag,
                    sha256=hashlib.sha256(data).hexdigest(),
                    codec=_codec(clip),
                    frames=frames,
                    duration_seconds=seconds,
                    is_ours=is_ours,
                    stored_at=standing.last_modified if standing else LONG_AGO,
                    retired_at=LONG_AGO if retired else None,
                    purge_after=(LONG_AGO if due else datetime.now(UTC) + timedelta(days=7)) if retired else None,
                    run_id=run_id,
                    recipe=recipe,
                )
                .returning(blobs.c.id)
            ).scalar_one()
            if current:
                session.execute(
                    sa.update(videos).where(videos.c.id == video_id).values(blob_id=blob_id, generation=generation)
                )
        return blob_id

    def put_in_parts(self, key: str, data: bytes) -> str:
        """Store an object in parts of 5 MiB, as clients do with large files; return its ETag, which is not its MD5."""
        place: Any = {"Bucket": BUCKET, "Key": key}
        client = self.double.client
        place["UploadId"] = client.create_multipart_upload(**place)["UploadId"]
        parts = list[Any]()
        for number, start in enumerate(range(0, len(data), PART_BYTES), 1):
            part = client.upload_part(**place, PartNumber=number, Body=data[start : start + PART_BYTES])
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        done = client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
        return done["ETag"].strip('"')

    def swapped(self, video_id: str, *, run_id: str) -> None:
        """Add a video that `run_id` has swapped: its first blob is retired and can be taken back."""
        old = self.video(video_id, blob_state=BlobState.RETIRED, current=False)
        new = self.video(video_id, generation=2, recipe="a recipe")
        with transaction(self.workspace.engine, "test") as session:
            key = sa.select(blobs.c.key).where(blobs.c.id == new).scalar_subquery()
            session.execute(sa.update(blobs).where(blobs.c.id == old).values(retire_reason=replaced_by(key)))
            session.execute(
                sa.insert(operations).values(
                    id=video_id,
                    kind="swap",
                    state="done",
                    video_id=video_id,
                    old_blob_id=old,
                    new_blob_id=new,
                    generation=1,
                    run_id=run_id,
                    lease_token=1,
                    detail={},
                    created_at=LONG_AGO,
                    updated_at=LONG_AGO,
                )
            )

    def plan(self, flow: str, action: str, blob_ids: list[int]) -> str:
        """Save a plan that says `action` for `blob_ids`."""
        plan_id = f"{flow[:5]}{len(blob_ids)}"
        with transaction(self.workspace.engine, "test") as session:
            session.execute(
                sa.insert(plans).values(
                    id=plan_id,
                    flow=flow,
                    state="applied",
                    as_of=datetime.now(UTC),
                    created_at=datetime.now(UTC),
                    run_id="run",
                    policy={},
                    policy_hash="",
                    population=0,
                    population_bytes=0,
                    kept={},
                )
            )
            for blob in session.execute(sa.select(blobs).where(blobs.c.id.in_(blob_ids))).all():
                session.execute(
                    sa.insert(verdicts).values(
                        plan_id=plan_id,
                        blob_id=blob.id,
                        video_id=blob.video_id,
                        user_id="ann",
                        generation=blob.generation,
                        action=action,
                        rule="test",
                        reason="a test says so",
                        size_bytes=blob.size_bytes,
                    )
                )
        return plan_id

    def expire_leases(self) -> None:
        """Advance time until a dead run's leases and claims have expired."""
        with transaction(self.workspace.engine, "test") as session:
            session.execute(sa.update(leases).values(expires_at=LONG_AGO))
            session.execute(sa.update(blobs).where(blobs.c.claimed_at.is_not(None)).values(claimed_at=LONG_AGO))
            session.execute(sa.update(operations).where(operations.c.sent_at.is_not(None)).values(sent_at=LONG_AGO))

    def check(self, *, settled: bool = True) -> None:
        """The master property. `settled`: the recovery has ended, so nothing may be left half done."""
        stored = {stored_object.key: stored_object for page in self.workspace.bucket.pages() for stored_object in page}
        with reading(self.workspace.engine) as session:
            rows = session.execute(sa.select(blobs)).all()
            live = session.execute(
                sa.select(
                    videos.c.id, blobs.c.key, blobs.c.state, blobs.c.sha256, blobs.c.duration_seconds, blobs.c.frames
                )
                .join(blobs, blobs.c.id == videos.c.blob_id)
                .where(videos.c.state == VideoState.LIVE)
            ).all()
            noted = set(session.execute(sa.select(orphans.c.key)).scalars())
            open_operations = session.execute(sa.select(operations).where(operations.c.state == "open")).all()
            announced = (
                sa.select(operations.c.video_id, blobs.c.sha256)
                .join(blobs, blobs.c.id == operations.c.new_blob_id)
                .where(operations.c.state == "open", operations.c.aside_blob_id.is_not(None))
            )
            about_to_show = {row.video_id: row.sha256 for row in session.execute(announced)}
            audit.verify(session)
            in_doubt = [row.key for row in rows if self._is_in_doubt(row, stored)]
            done = Counter(
                (row.event, row.blob_id or row.detail.get("job") or row.detail.get("webhook"))
                for row in session.execute(
                    sa.select(audit_events.c.event, audit_events.c.blob_id, audit_events.c.detail)
                )
                if (row.event, row.blob_id) != ("purge", None)
                and row.event not in {"hold", "tier"}
                and not row.event.startswith(("credits_", "erase"))
            )
            assert recount.mismatches(session) == []  # credits, and each user's bytes
        for video in live:
            assert video.state == BlobState.LIVE, f"{video.id} is live on a blob that is {video.state}"
            assert video.key in stored, f"LOST: {video.id} is live, and nothing is stored at {video.key}"
            self._assert_readable(video, about_to_show.get(video.id))
        keys = {row.key: row.state for row in sorted(rows, key=lambda row: row.state != BlobState.GONE)}
        without_row = stored.keys() - keys.keys() - noted
        assert not without_row, f"ORPHANED: {without_row}"
        back = {key for key in stored if keys.get(key) == BlobState.GONE}
        assert not back, f"still stored although gone: {back}"
        repeated = {effect: times for effect, times in done.items() if times > 1}
        assert not repeated, f"done more than once: {repeated}"
        self._assert_effects_once()
        now_outside = {key: (found.etag if (found := self.outside.head(key)) else None) for key in self.sentinels}
        assert now_outside == self.sentinels, "something outside the prefix has changed"
        if settled:
            assert not in_doubt, f"IN DOUBT: {in_doubt}"
            stuck = [row.key for row in rows if row.state in (BlobState.PENDING, BlobState.DELETING)]
            assert not stuck, f"STUCK: {stuck}"
            assert not open_operations, f"STUCK: {open_operations}"

    @staticmethod
    def _is_in_doubt(row: sa.Row[tuple[object, ...]], stored: Mapping[str, StoredObject]) -> bool:
        """Whether a sync would report the object at a key of ours: the stored one is not as recorded."""
        found = stored.get(row.key)
        if found is None or not row.is_ours or row.state == BlobState.LOST:
            return False
        return (found.size_bytes, found.etag) != (row.size_bytes, row.etag)

    def _assert_effects_once(self) -> None:
        inside = self.address.prefix
        puts = [request for request in self.double.sent("PutObject") if request.status == 200]
        put = Counter(request.key for request in puts if "if-match" not in request.headers)  # over what it names
        deleted = Counter(self.double.deleted())
        assert not {key: times for key, times in put.items() if times > 1 and key.startswith(inside)}
        assert not {key: times for key, times in deleted.items() if times > 1 and key.startswith(inside)}
        assert not {key for key in deleted if key in self.sentinels}

    def _assert_readable(self, video: sa.Row[tuple[object, ...]], about_to_show: str | None) -> None:
        path = Path(self.address.folder) / "check.bin"
        digest = self.workspace.bucket.download(video.key, path)
        assert video.sha256 is None or digest in (video.sha256, about_to_show), f"CORRUPT: {video.id}"
        if video.frames is not None:
            if digest not in _DURATIONS:
                _DURATIONS[digest] = decoded(path)
            frames, seconds = _DURATIONS[digest]
            assert frames == video.frames
            assert abs(seconds - video.duration_seconds) < 0.1
        path.unlink()


@cache
def _whole_bucket(endpoint_url: str, access_key_id: str, secret_access_key: str) -> r2.Bucket:
    return r2.connect(endpoint_url, access_key_id, secret_access_key, BUCKET, "")


@cache
def _codec(clip: Path) -> str:
    return ffmpeg.inspect(clip).codec


def decoded(clip: Path) -> tuple[int, float]:
    """Frames and seconds that really decode."""
    key = hashlib.sha256(clip.read_bytes()).hexdigest()
    if key not in _DURATIONS:
        result = ffmpeg.decode(clip, ffmpeg.inspect(clip))
        _DURATIONS[key] = (result.frames, result.duration_seconds)
    return _DURATIONS[key]
