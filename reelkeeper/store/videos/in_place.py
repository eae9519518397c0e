"""Store swaps in place: the old object at the service's key, its copy aside, and the new object put over it.

    old      live at the service's key                   --published--> gone
    aside    pending at a key of ours: a copy of the old --published--> retired: it waits out the grace
    new      pending at the service's key                --published--> live

If it is abandoned, the old bytes stay live, or become live once they are put back, and the copy is retired.
"""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, Recorded, StoredObject
from reelkeeper.store.core.engine import changed, now
from reelkeeper.store.tables import blobs, operations, videos
from reelkeeper.store.videos.conditions import CLAIM_TIMEOUT, replaced_in_place, retired
from reelkeeper.store.videos.intents import Intent


class Exchange(NamedTuple):
    """An open intent in place: the records of its three objects, and its progress.

    `old_md5` is the MD5 of the old bytes: their ETag after they are put back. `undoing` is the reason for that.
    `aside_etag` is None until the copy is known as it is stored. `author` undoes a swap, and has the video held for
    `hold_days`; "" and 0 for a swap itself.
    """

    old: Recorded
    old_md5: str
    new_etag: str
    aside_key: str
    aside_etag: str | None
    aside_sha256: str
    sent_at: datetime | None
    undoing: str | None
    author: str
    hold_days: int


def find(session: Session, intent: Intent) -> Exchange:
    """Read the record of an intent in place."""
    old, new, aside = blobs.alias("old"), blobs.alias("new"), blobs.alias("aside")
    row = session.execute(
        sa.select(
            *(old.c[name] for name in Recorded._fields),
            operations.c.detail["old_md5"].as_string(),
            new.c.etag,
            aside.c.key,
            aside.c.etag,
            aside.c.sha256,
            operations.c.sent_at,
            operations.c.outcome,
            sa.func.coalesce(operations.c.detail["author"].as_string(), ""),
            sa.func.coalesce(operations.c.detail["hold_days"].as_integer(), 0),
        )
        .join(old, old.c.id == operations.c.old_blob_id)
        .join(new, new.c.id == operations.c.new_blob_id)
        .join(aside, aside.c.id == operations.c.aside_blob_id)
        .where(operations.c.id == intent.id)
    ).one()
    width = len(Recorded._fields)
    return Exchange(Recorded(*row[:width]), *row[width:])


def note_aside(session: Session, intent: Intent, copied: StoredObject, sha256: str) -> None:
    """Record the copy as stored: its ETag may differ from that of its source."""
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == intent.aside_blob_id)
        .values(etag=copied.etag, size_bytes=copied.size_bytes, sha256=sha256)
    )


def note_sending(session: Session, intent: Intent) -> bool:
    """Record that a PUT is about to be sent; False where another run has ended the intent."""
    # guard in_place.still_open: a run that was suspended puts bytes at a key after another run has ended the intent
    still = operations.c.id == intent.id, operations.c.state == "open"
    return bool(changed(session, sa.update(operations).where(*still).values(sent_at=now(session))))


def note_answered(session: Session, intent: Intent) -> None:
    """Record that the bucket has answered: no PUT of the intent is under way."""
    session.execute(sa.update(operations).where(operations.c.id == intent.id).values(sent_at=None))


def begin_undo(session: Session, intent: Intent, why: str) -> bool:
    """Record the final decision to put the old bytes back; False where another run has ended the intent."""
    still = operations.c.id == intent.id, operations.c.state == "open"
    return bool(changed(session, sa.update(operations).where(*still).values(outcome=why)))


def may_come(sent_at: datetime | None, at: datetime) -> bool:
    """Return whether a PUT sent at that time may still take effect: its signature expires as a purge's does."""
    return sent_at is not None and sent_at > at - CLAIM_TIMEOUT


def publish(session: Session, intent: Intent, found: StoredObject, grace: Grace) -> None:
    """Make the new row describe the object at the key, and start the grace of its copy aside. Called before `close`."""
    why = replaced_in_place(intent.key, str(intent.generation + 1))
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == intent.old_blob_id)
        .values(state=BlobState.GONE, retire_reason=why, run_id=intent.run_id)
    )
    session.execute(sa.update(blobs).where(blobs.c.id == intent.new_blob_id).values(stored_at=found.last_modified))
    _retire_aside(session, intent, grace, why)


def abandon(session: Session, intent: Intent, back: StoredObject | None, grace: Grace, why: str) -> None:
    """Start the grace of the copy aside; the old row describes the object `back`, if it was put back."""
    if back is not None:
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id == intent.old_blob_id, blobs.c.state != BlobState.GONE)
            .values(etag=back.etag, stored_at=back.last_modified)
        )
    _retire_aside(session, intent, grace, why)


def hand_over(session: Session, intent: Intent, found: StoredObject, grace: Grace, why: str) -> None:
    """Make the new row describe the object at the key, and retire it: its video was taken down."""
    publish(session, intent, found, grace)
    session.execute(sa.update(blobs).where(blobs.c.id == intent.new_blob_id).values(retired(now(session), grace, why)))


def note_taken_back(session: Session, intent: Intent) -> None:
    """Record that the video must not be compressed again by this recipe."""
    recipe = sa.select(blobs.c.recipe).where(blobs.c.id == intent.old_blob_id).scalar_subquery()
    session.execute(
        sa.update(videos)
        .where(videos.c.id == intent.video_id)
        .values(refused_recipe=recipe, refused_reason="its swap was taken back", refused_at=now(session))
    )


def _retire_aside(session: Session, intent: Intent, grace: Grace, why: str) -> None:
    """Start the grace of the copy aside; one that was never stored is gone."""
    pending = blobs.c.id == intent.aside_blob_id, blobs.c.state == BlobState.PENDING
    session.execute(
        sa.update(blobs)
        # guard in_place.never_copied: a copy that was never made is reported as lost
        .where(*pending, blobs.c.etag.is_(None))
        .values(run_id=intent.run_id, state=BlobState.GONE, retire_reason=why)
    )
    session.execute(
        sa.update(blobs)
        # guard in_place.aside_grace: the only copy of the old bytes is purged without a grace
        .where(*pending)
        .values(run_id=intent.run_id, **retired(now(session), grace, why))
    )
