"""A user is erased: nothing names them any more, the ledger balances and the audit verifies."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from sqlmodel import SQLModel

from reelkeeper import failpoints
from reelkeeper.adapters.s3.keys import EPOCHS
from reelkeeper.adapters.s3.transport import LOCKED
from reelkeeper.errors import Frozen, LeaseLost, NotFound, UserErased
from reelkeeper.model.alerts import EventType, Happened, MessageState
from reelkeeper.model.requests import GenerationRequest, Queued, Unfulfilled
from reelkeeper.operations.billing import users
from reelkeeper.operations.billing.ledger import deduct_user_credits
from reelkeeper.operations.core import prune_records
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import MAX_SKEW_FROM_BUCKET
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs import claim, settle
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.operations.removals.erase import Erasure, erase
from reelkeeper.operations.removals.takedown import TakedownOrder, certificate, take_down
from reelkeeper.operations.videos import images, receive
from reelkeeper.operations.videos.export import export
from reelkeeper.operations.videos.hold import hold, release
from reelkeeper.rules.core.record_retention import RecordRetentionPolicy
from reelkeeper.settings import Settings
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.billing.ledger import balance
from reelkeeper.store.core.audit import Event, append, events, verify
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.removals.personal_data import FATES, NOTES, Fate, searched
from reelkeeper.store.tables import (
    blobs,
    credit_holds,
    holds,
    jobs,
    key_owners,
    leases,
    outbox,
    policy_versions,
    reservations,
    transfers,
    uploads,
    videos,
)
from reelkeeper.store.videos import cache
from reelkeeper.store.videos.holds import HoldTerms
from tests.doubles.cloudflare import ACCOUNT, ALL, TOKEN, ZONE, CloudflareDouble
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.books import DOLLAR
from tests.operations.clocks import MovedClock
from tests.worlds import AtFailpoint

SMALL = {"model": "a", "width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}
PNG = b"\x89PNG\r\n\x1a\n" + b"a picture of somebody"


def gone(world: World, *, user_id: str = "ann", wait_seconds: float = 0.0, settings: Settings | None = None) -> Erasure:
    return erase(
        world.workspace,
        user_id,
        by="front",
        run_id="erase-1",
        settings=settings or Settings(),
        wait_seconds=wait_seconds,
    )


def dump(engine: sa.Engine) -> str:
    """Read every table as text."""
    with reading(engine) as session:
        rows = [
            (table.name, *row) for table in SQLModel.metadata.sorted_tables for row in session.execute(sa.select(table))
        ]
    return "\n".join(map(repr, rows))


def stored(world: World) -> list[str]:
    listed = world.double.client.list_objects_v2(Bucket=world.workspace.bucket.name, Prefix=world.address.prefix)
    keys = [item["Key"] for item in listed.get("Contents", [])]
    return [key for key in keys if not key.endswith("identity.json") and EPOCHS not in key]


def ask(world: World, prompt: str, *, user_id: str = "ann", key: str = "", **more: Any) -> str:  # noqa: ANN401  of a request
    request = GenerationRequest.model_validate({**SMALL, "prompt": prompt, **more})
    answer = admit(world.workspace.engine, request, user_id=user_id, client_key=key or prompt.replace(" ", "-"))
    assert isinstance(answer, Queued), answer
    return answer.job_id


def test_every_column_of_the_store_says_what_becomes_of_it() -> None:
    tables = SQLModel.metadata.tables
    assert FATES.keys() == tables.keys()
    for name, told in FATES.items():
        if not isinstance(told, Fate):
            assert set(told) == {column.name for column in tables[name].c}, name


def test_only_amounts_under_a_pseudonym_are_left_of_an_erased_user(shop: World) -> None:
    engine = shop.workspace.engine
    shop.swapped("v1", run_id="tier-1")
    sha256 = images.keep(shop.workspace, PNG).sha256
    job_id = ask(shop, "a portrait of my aunt", key="key-of-a-request", image_sha256=sha256)
    with transaction(engine, "test") as session:
        webhooks.add(session, "https://example.com", [EventType.JOB_ENDED], "whsec_c2VjcmV0")
        session.execute(
            sa.update(jobs)
            .where(jobs.c.id == job_id)
            .values(caller_metadata={"for": "uncle Bob"}, webhook_url="https://example.com/uncle")
        )
    settle.cancel(engine, job_id, run_id="test")
    users.give(engine, "ann", 5, "key-of-a-gift", by="front", reason="sorry about the cat")
    hold(engine, HoldTerms("user", "ann", "a dispute with the landlord", "front"))
    with transaction(engine, "test") as session:
        cache.insert(session, "key", "v1", user_id="ann", cost_microusd=1, ttl_seconds=None)
    before = dump(engine)
    for told in ("aunt", "landlord", "the cat", "key-of-a-request", "'ann'", "/ann/", sha256, "uncle"):
        assert told in before, told
    done = gone(shop)
    assert done.left == ()
    assert stored(shop) == []
    after = dump(engine)
    for told in ("aunt", "landlord", "the cat", "key-of-a", "'ann'", "/ann", "ann'", sha256, "v1", "uncle"):
        assert told not in after, [line for line in after.splitlines() if told in line]
    assert accounts.recount(engine) == []
    with reading(engine) as session:
        verify(session)
        (begun,) = events(session, event="erase_begin")
        assert (begun.event.user_id, begun.event.run_id) == (done.pseudonym, "erase-1")
        granted = [item.event for item in events(session, event="credits_grant")]
        assert {(event.user_id, event.detail["microusd"]) for event in granted} == {
            (done.pseudonym, 5),
            (done.pseudonym, DOLLAR),
        }
    assert done.rows["videos"] == 1
    with pytest.raises(NotFound) as refused:
        gone(shop)
    assert marked(refused.value) == snapshot("no user 'ann' in the catalogue: already erased, or never existed")


def test_another_user_keeps_all_even_what_both_share(world: World) -> None:
    engine = world.workspace.engine
    users.give(engine, "ann", DOLLAR, "first", by="front")
    users.put(engine, "bob", "free", by="front")
    users.give(engine, "bob", DOLLAR, "first", by="front", reason="for ann's friend")
    sha256 = images.keep(world.workspace, PNG).sha256
    ask(world, "a cat", image_sha256=sha256)
    theirs = ask(world, "a dog", user_id="bob", image_sha256=sha256)
    with transaction(engine, "test") as session:
        metadata = {"order": "1234", "user_id": "ann", "gift": "for ann, from Bob", "colour": "ann"}
        session.execute(sa.update(jobs).where(jobs.c.id == theirs).values(caller_metadata=metadata))
    blob_id = world.video("v1")
    with transaction(engine, "test") as session:
        done = sa.update(jobs).where(jobs.c.id == theirs)
        session.execute(done.values(video_id="v1", state="succeeded"))  # one that bob was given from the cache
        for name in ("v2", "ann"):  # a video may be called like the user
            session.execute(sa.insert(videos).values(id=name, user_id="bob", state="live", generation=1))
    hold(engine, HoldTerms("video", "ann", "a dispute", "front"))
    world.video("v2")
    with reading(engine) as session:
        key = session.execute(sa.select(blobs.c.key).where(blobs.c.video_id == "v2")).scalar_one()
    with transaction(engine, "test") as session:
        session.execute(sa.insert(key_owners).values(key=key, user_id="ann"))
    erased = gone(world)
    assert erased.left == ()
    with reading(engine) as session:
        assert session.execute(sa.select(sa.func.count()).select_from(holds)).scalar_one() == 1
    assert stored(world) == [world.workspace.bucket.image_key(sha256), key]
    again = admit(
        engine,
        GenerationRequest.model_validate({**SMALL, "prompt": "a dog", "image_sha256": sha256}),
        user_id="bob",
        client_key="a-dog",
    )
    assert isinstance(again, Unfulfilled), "what bob was given is gone"
    with reading(engine) as session:
        row = session.execute(sa.select(jobs).where(jobs.c.id == theirs)).one()
        assert (row.user_id, row.request["prompt"], row.video_id) == ("bob", "a dog", None)
        named = erased.pseudonym
        assert row.caller_metadata == {
            "order": "1234",
            "user_id": named,
            "gift": f"for {named}, from Bob",
            "colour": "ann",  # a word of its own, which may mean anything
        }
        assert session.execute(sa.select(blobs.c.key).where(blobs.c.id == blob_id)).scalar() == f"erased/{blob_id}"
        told = [item.event for item in events(session, user_id="bob", event="credits_grant")]
    assert told == [], "what was said to bob named ann: the record keeps the amount"


def test_an_image_goes_with_its_user_also_when_the_jobs_that_began_with_it_are_deleted(world: World) -> None:
    engine, pictures = world.workspace.engine, [images.keep(world.workspace, PNG + end).sha256 for end in (b"1", b"2")]
    for user_id in ("ann", "bob", "gina"):
        users.put(engine, user_id, "free", by="front")
        users.give(engine, user_id, DOLLAR, "first", by="front")
        for number in (1, 2):
            chosen = pictures[0] if number == 1 or user_id == "ann" else pictures[1]
            job_id = ask(world, f"a cat of {user_id}'s, {number}", user_id=user_id, image_sha256=chosen)
            settle.cancel(engine, job_id, run_id="test")
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).values(finished_at=LONG_AGO))
    with LeaseManager(engine) as manager:
        (lease,) = manager.take(["test"])
        assert prune_records.forget(engine, RecordRetentionPolicy(), lease=lease)["jobs"] == 6
    users.rename(engine, "gina", "bob", by="front", apply=True)
    assert export(world.workspace, "ann", Path(world.address.folder) / "ann.zip").images == 1
    kept = [world.workspace.bucket.image_key(sha256) for sha256 in sorted(pictures)]
    assert (gone(world).left, stored(world)) == ((), kept)
    assert (gone(world, user_id="bob").left, stored(world)) == ((), [])


def test_the_key_of_an_upload_that_never_came_is_emptied_however_long_ago_that_was(world: World) -> None:
    engine = world.workspace.engine
    users.put(engine, "ann", "free", by="front")
    begun, _ = receive.begin(
        world.workspace, receive.Announced("ann", "v9", 100, "0" * 32, "mp4"), "upload", url_seconds=60
    )
    with transaction(engine, "test") as session:
        session.execute(sa.update(reservations).values(expires_at=LONG_AGO))
        session.execute(sa.update(uploads).values(url_until=LONG_AGO))
    with LeaseManager(engine) as manager:
        (lease,) = manager.take(["test"])
        assert len(accounts.void_reservations(engine, lease=lease)) == 1
        with transaction(engine, "test") as session:
            session.execute(sa.update(reservations).values(settled_at=LONG_AGO))
        prune_records.forget(engine, RecordRetentionPolicy(), lease=lease)
    assert gone(world).left == ()
    assert begun.key not in dump(engine)


def test_a_user_being_erased_gets_nothing_new(shop: World) -> None:
    engine = shop.workspace.engine
    shop.video("v1")
    hold(engine, HoldTerms("user", "ann", "evidence", "counsel", is_legal=True))
    left = gone(shop).left
    assert [item.why for item in left] == [
        snapshot("the user is under a legal hold: repeat when it has ended"),
        snapshot("a legal hold keeps it"),
    ]
    announced = receive.Announced("ann", "v9", 100, "0" * 32, "mp4")
    for refused in (
        lambda: ask(shop, "a cat"),
        lambda: users.give(engine, "ann", 5, "more", by="front"),
        lambda: users.put(engine, "ann", "pro", by="front"),
        lambda: receive.begin(shop.workspace, announced, "upload", url_seconds=60),
    ):
        with pytest.raises(UserErased):
            refused()


def test_an_erased_user_is_refunded_nothing(shop: World) -> None:
    engine = shop.workspace.engine
    users.give(engine, "ann", DOLLAR, "first", by="front")
    assert deduct_user_credits(engine, "ann", DOLLAR, "video 1")
    with reading(engine) as session:
        hold_id = session.execute(sa.select(credit_holds.c.id)).scalar_one()
    pseudonym = gone(shop).pseudonym
    with pytest.raises(UserErased):
        users.give(engine, None, DOLLAR, "back", by="front", reason="ann's mistake", hold_id=hold_id)
    with reading(engine) as session:
        assert balance(session, pseudonym).spent_microusd == DOLLAR
    assert "ann's" not in dump(engine)


def test_a_legal_hold_delays_what_it_keeps_and_says_until_when(shop: World) -> None:
    engine = shop.workspace.engine
    shop.video("v1")
    shop.video("v2")
    until = LONG_AGO.replace(year=2099)
    placed = hold(engine, HoldTerms("video", "v1", "evidence", "counsel", is_legal=True, expires_at=until))
    first = gone(shop)
    assert ([item.why for item in first.left], first.until) == ([snapshot("a legal hold keeps it")], until)
    assert len(stored(shop)) == 1
    release(engine, placed.id, author="counsel")
    second = gone(shop)
    assert (second.left, second.pseudonym) == ((), first.pseudonym)
    assert stored(shop) == []


def test_a_legal_hold_on_a_user_keeps_all_that_is_stored_of_them_also_outside_of_videos(shop: World) -> None:
    bucket = shop.workspace.bucket
    announced = receive.Announced("ann", "v9", 100, "0" * 32, "mp4")
    upload, _ = receive.begin(shop.workspace, announced, "upload", url_seconds=60)
    bucket.put_bytes_once(upload.key, b"it was never completed", "video/mp4")
    bucket.put_bytes_once(f"{bucket.prefix}ann/v7/1-0123456789abcdef01234567.mp4", b"of no row", "video/mp4")
    digest = images.keep(shop.workspace, PNG).sha256
    ask(shop, "a cat", image_sha256=digest)
    before = stored(shop)
    assert len(before) == 3
    placed = hold(shop.workspace.engine, HoldTerms("user", "ann", "evidence", "counsel", is_legal=True))
    assert gone(shop).left
    assert stored(shop) == before
    release(shop.workspace.engine, placed.id, author="counsel")
    gone(shop)
    assert stored(shop) == []


def test_an_erasure_waits_for_a_valid_upload_url(shop: World) -> None:
    announced = receive.Announced("ann", "v9", 100, "0" * 32, "mp4")
    upload, _ = receive.begin(shop.workspace, announced, "upload", url_seconds=600)
    shop.workspace.bucket.put_bytes_once(upload.key, b"it came late", "video/mp4")
    done = gone(shop)
    until = upload.url_until + MAX_SKEW_FROM_BUCKET
    assert (done.until, [item.why for item in done.left]) == (
        until,
        [snapshot("an upload URL is still valid: repeat when it has expired")],
    )
    assert stored(shop) == [], "what was put so far is gone"


@pytest.mark.parametrize(("minutes", "waits"), [(14, True), (16, False)])
def test_an_erasure_waits_while_a_bucket_whose_clock_is_behind_may_accept_an_upload_url(
    shop: World, monkeypatch: pytest.MonkeyPatch, minutes: int, waits: bool
) -> None:
    announced = receive.Announced("ann", "v9", 100, "0" * 32, "mp4")
    receive.begin(shop.workspace, announced, "upload", url_seconds=600)
    MovedClock(monkeypatch).ahead_seconds = minutes * 60
    assert bool(gone(shop).left) == waits


def test_a_job_at_work_is_settled_by_its_worker_first(shop: World) -> None:
    engine = shop.workspace.engine
    job_id = ask(shop, "a cat")
    (claimed,) = claim.claim(engine, "worker", [None], limit=1)
    assert gone(shop).left[0].why == snapshot("1 job at work, asked to stop: repeat in a minute")
    settle.fail(engine, Attempt(job_id, claimed.lease_token, cost_microusd=7), "cancelled", run_id="run")
    assert gone(shop).left == ()
    with reading(engine) as session:
        row = session.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()
    assert (row.cost_microusd, row.error, row.request["prompt"]) == (7, None, "erased")


def test_a_freeze_stops_it_and_two_do_not_do_it_at_once(shop: World) -> None:
    engine = shop.workspace.engine
    shop.video("v1")
    hold(engine, HoldTerms("video", "v1", "evidence", "counsel", is_legal=True))
    pseudonym = gone(shop).pseudonym
    with LeaseManager(engine) as manager:
        assert manager.take([f"erase/{pseudonym}"])
        with pytest.raises(LeaseLost) as refused:
            gone(shop)
        assert marked(refused.value) == snapshot(
            "user 'ann' is being erased by another process; nothing was changed here. Try again in a minute"
        )
    users.put(engine, "bob", "free", by="front")
    freeze(engine, by="test", reason="an alarm")
    before = dump(engine)
    for user_id in ("ann", "bob"):
        with pytest.raises(Frozen):
            gone(shop, user_id=user_id)
    assert dump(engine) == before


def test_a_new_user_with_an_erased_users_id_starts_from_nothing(shop: World) -> None:
    engine = shop.workspace.engine
    ask(shop, "a cat", key="same-key")
    assert gone(shop).left == ()
    users.put(engine, "ann", "pro", by="front")
    moved, balance = users.give(engine, "ann", DOLLAR, "first", by="front")
    assert (moved.amount_microusd, balance.available_microusd) == (DOLLAR, DOLLAR)
    ask(shop, "a dog", key="same-key")
    with reading(engine) as session:
        told = [item.event.event for item in events(session, user_id="ann")]
    assert told == ["credits_hold", "credits_grant", "tier"]


def test_of_policies_only_scopes_change_and_no_model_that_has_the_word_of_an_id(shop: World) -> None:
    engine = shop.workspace.engine
    users.put(engine, "fast", "free", by="front")
    price = {
        "unit": "clip",
        "rates": [{"usd": "0.10"}],
        "source": "https://fal.ai/fast/prices",
        "read_on": "2026-11-25",
    }
    sold = {"model": "veo/fast", "provider": "fal", "vendor_model": "fal-ai/veo3.1/fast", "price": price}
    limits = [{"scope": f"user:{name}", "period": "day", "usd": 5} for name in ("fast", "faster")]
    document = {"book": {"models": [sold]}, "admission": {"spend_limits": limits}}
    row = {"version": 7, "digest": "d", "document": document, "author": "ann", "reason": "user fast pays late"}
    with transaction(engine, "test") as session:
        session.execute(sa.insert(policy_versions).values(**row, created_at=LONG_AGO))
    pseudonym = gone(shop, user_id="fast").pseudonym
    limits[0]["scope"] = f"user:{pseudonym}"
    with reading(engine) as session:
        after = sa.select(policy_versions.c.document, policy_versions.c.reason).where(policy_versions.c.version == 7)
        assert tuple(session.execute(after).one()) == (document, f"user {pseudonym} pays late")


def test_what_is_recorded_of_others_stays_where_only_a_word_is_like_an_id(world: World) -> None:
    engine = world.workspace.engine
    for name in ("google", "bob"):
        users.put(engine, name, "free", by="front")
    world.video("intro")  # of ann, for two folders of bob's
    for name, folder in (("clip", "bob/intro"), ("clip-2", "bob/ann/intro")):
        world.video(name, key=f"{world.address.prefix}{folder}/{name}.mp4")
    data = {"user_id": "bob", "key": "bob/intro/clip.mp4", "model": "google/veo-3.1", "state": "succeeded"}
    named = ({"error": "as user google's"}, {"video_id": "intro"}, {"state": "dead"})
    said = [("bob", data), *(("bob", data | other) for other in named)]
    with transaction(engine, "test") as session:
        session.execute(sa.update(videos).where(videos.c.id != "intro").values(user_id="bob"))
        webhooks.add(session, "https://example.com", [EventType.JOB_ENDED], "whsec_c2VjcmV0")
        webhooks.put(session, [Happened(EventType.JOB_ENDED, *item) for item in said])
        answered = outbox.c.payload["data"]["state"].as_string() == "dead"
        session.execute(sa.update(outbox).where(answered).values(last_error="404: user google is not known here"))
        changes = {"book.models.google/veo-3.1.usd": ["1", "2"]}
        append(session, [Event("policy", "front", detail={"version": 2, "changes": changes})])
        append(session, [Event("vendor_trial", "front", detail={"provider": "google", "model": "google/veo-3.1"})])
    order = TakedownOrder("counsel", "court order 17", "takedown-1")
    for name in ("clip", "clip-2"):
        take_down(world.workspace, name, order, scratch=Path(world.address.folder) / "scratch")
    for user_id in ("google", "ann"):
        assert gone(world, user_id=user_id).left == ()
    for name in ("clip", "clip-2"):
        found = certificate(engine, name)
        assert (found.by, [item.key.endswith(f"{name}.mp4") for item in found.objects]) == ("counsel", [True])
    with reading(engine) as session:
        (policy,), (trial,) = events(session, event="policy"), events(session, event="vendor_trial")
        wanted = sa.select(outbox.c.state, outbox.c.payload).where(outbox.c.endpoint_id.is_not(None))
        sent = session.execute(wanted.order_by(outbox.c.id)).all()[:4]
        assert verify(session) > 0
    assert (policy.event.detail["changes"], trial.event.detail["model"]) == (changes, "google/veo-3.1")
    assert [(row.state, bool(row.payload["data"])) for row in sent] == [
        (MessageState.WAITING, True),
        (MessageState.WITHDRAWN, False),
        (MessageState.WITHDRAWN, False),
        (MessageState.WITHDRAWN, False),
    ]


def test_words_that_name_the_user_are_replaced_and_others_are_not(shop: World) -> None:
    engine = shop.workspace.engine
    freeze(engine, by="test", reason="user ann called about annual fees")
    thaw(engine, by="test")
    with transaction(engine, "test") as session:
        session.execute(sa.text("UPDATE deployment SET frozen_reason = 'ask ann about annual fees'"))
    pseudonym = gone(shop).pseudonym
    with reading(engine) as session:
        reason = session.execute(sa.text("SELECT frozen_reason FROM deployment")).scalar()
    assert reason == f"ask {pseudonym} about annual fees"
    with reading(engine) as session:
        (frozen,) = events(session, event="freeze")
        assert (frozen.event.detail, verify(session) > 0) == ({}, True)


def test_reasons_and_notes_of_others_no_longer_name_an_erased_user(shop: World) -> None:
    engine = shop.workspace.engine
    users.put(engine, "anna", "free", by="front")
    users.put(engine, "bob", "free", by="front")
    reasons = ("ann sues bob", "ann", "ask:ann", "anna's and ann-2's lawyers, not ANN's")
    for number, why in enumerate(reasons):
        hold(engine, HoldTerms("user", "bob", why, f"counsel {number}"))
    users.give(engine, "bob", DOLLAR, "sorry", by="front", reason="ann's mistake")
    job_id = ask(shop, "a dog", user_id="bob")
    with transaction(engine, "test") as session:
        session.execute(sa.insert(videos).values(id="v2", user_id="anna", state="live", generation=1))
        said = {"retire_reason": "ann asked", "refused_reason": "(ann)"}
        session.execute(sa.update(videos).where(videos.c.id == "v2").values(said))
        session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(error="as ann's was"))
    pseudonym = gone(shop).pseudonym
    with reading(engine) as session:
        held = session.execute(sa.select(holds.c.reason).order_by(holds.c.author)).scalars().all()
        of_video = session.execute(sa.select(videos.c.retire_reason, videos.c.refused_reason)).one()
        error = session.execute(sa.select(jobs.c.error).where(jobs.c.id == job_id)).scalar_one()
        given = session.execute(sa.select(transfers.c.detail).where(transfers.c.kind == "grant")).scalars().all()
        assert verify(session) > 0
    assert held == [f"{pseudonym} sues bob", pseudonym, f"ask:{pseudonym}", reasons[-1]]
    assert (*of_video, error) == (f"{pseudonym} asked", f"({pseudonym})", f"as {pseudonym}'s was")
    assert {"reason": f"{pseudonym}'s mistake"} in given
    assert dump(engine).count("ann'") == 0
    written = {
        (name, column.name)
        for name, table in SQLModel.metadata.tables.items()
        for column in table.c
        if _is_note(column.name)
    }
    assert written <= {
        (name, column) for noted in (searched(), NOTES) for name, found in noted.items() for column in found
    }


def _is_note(column: str) -> bool:
    return column.endswith(("reason", "note", "refusal")) or column in ("error", "last_error")


def test_a_freeze_while_it_deletes_keeps_what_is_left(shop: World, at_failpoint: AtFailpoint) -> None:
    sha256 = images.keep(shop.workspace, PNG).sha256
    ask(shop, "a cat", image_sha256=sha256)
    at_failpoint("erase.delete.before", lambda: freeze(shop.workspace.engine, by="test", reason="an alarm"))
    with pytest.raises(Frozen):
        gone(shop)
    assert stored(shop) == [shop.workspace.bucket.image_key(sha256)]


def test_objects_that_arrive_while_the_record_is_emptied_are_deleted_first(
    shop: World, at_failpoint: AtFailpoint
) -> None:
    at_failpoint("erase.events.after_commit", lambda: shop.video("v7"))
    assert [item.why for item in gone(shop).left] == [snapshot("not deleted yet: repeat in a minute")]
    assert gone(shop).left == ()
    assert stored(shop) == []


class _CrashError(Exception):
    pass


def _fill(world: World, number: int) -> None:
    users.put(world.workspace.engine, "ann", "free", by="front")
    users.give(world.workspace.engine, "ann", DOLLAR, f"gift-{number}", by="front", reason="for ann")
    world.video(f"v{number}")
    sha256 = images.keep(world.workspace, PNG).sha256
    ask(world, f"a cat {number}", image_sha256=sha256)


def test_after_a_crash_at_any_point_the_same_again_ends_it(world: World) -> None:
    points: list[str] = []
    _fill(world, 0)
    failpoints.observe(points.append)
    gone(world)
    failpoints.observe(None)
    assert {"erase.begin.after_commit", "erase.mark.after_commit", "erase.rows.before_commit"} <= set(points)

    def crash(name: str) -> None:
        if name == point:
            failpoints.observe(None)
            raise _CrashError

    for number, point in enumerate(sorted(set(points)), 1):
        _fill(world, number)
        failpoints.observe(crash)
        with pytest.raises(_CrashError):
            gone(world)
        failpoints.observe(None)
        with transaction(world.workspace.engine, "test") as session:  # what waits for a killed run has waited
            session.execute(sa.update(leases).values(expires_at=LONG_AGO))
            session.execute(sa.update(blobs).values(claimed_at=LONG_AGO))
        try:
            assert gone(world).left == (), point
        except NotFound:
            assert point == "erase.rows.after_commit"
        text = dump(world.workspace.engine)
        assert "'ann'" not in text, point
        assert "/ann" not in text, point
        assert stored(world) == [], point
    with reading(world.workspace.engine) as session:
        verify(session)


def at_cloudflare(cloudflare: CloudflareDouble) -> Settings:
    return Settings(
        cloudflare_account_id=ACCOUNT,
        cloudflare_api_token=TOKEN,
        cloudflare_api_url=cloudflare.url,
        public_url="https://videos.example.com",
        cache_zone_id=ZONE,
        cache_purge_token=TOKEN,
    )


def test_the_cdn_is_purged_before_the_records_of_its_objects_are_erased(
    world: World, cloudflare: CloudflareDouble
) -> None:
    settings = at_cloudflare(cloudflare)
    world.video("v1")
    loose = f"{world.address.prefix}ann/unknown/one.mp4"
    world.workspace.bucket.put_once(loose, world.clip, "video/mp4")
    keys = stored(world)
    cloudflare.permissions = ALL - {"Cache Purge: Purge"}
    (left,) = gone(world, settings=settings).left
    assert left.why == snapshot("Cloudflare's cache could not be purged of the objects: repeat when Cloudflare answers")
    assert stored(world) == []
    cloudflare.permissions = ALL
    assert gone(world, settings=settings).left == ()
    told = {url.removeprefix("https://videos.example.com/") for request in cloudflare.forgotten for url in request}
    assert told == set(keys)
    assert loose in told


def test_objects_under_a_bucket_lock_are_named_with_its_end(world: World, cloudflare: CloudflareDouble) -> None:
    world.video("v1")
    (key,) = stored(world)
    condition = {"type": "Age", "maxAgeSeconds": 86_400}
    rule = {"id": "l", "enabled": True, "prefix": "", "condition": condition}
    settings = at_cloudflare(cloudflare)
    cloudflare.bucket_rules[f"/r2/buckets/{settings.bucket}/lock"] = [rule]
    world.double.faults.refuse_deletes([key], code=LOCKED)
    found = world.workspace.bucket.head(key)
    assert found
    done = gone(world, settings=settings)
    assert [(item.key, item.why) for item in done.left] == [(key, snapshot("a bucket lock keeps it"))]
    assert done.until == found.last_modified + timedelta(days=1)
