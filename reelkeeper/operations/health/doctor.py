"""Check every part that Reelkeeper depends on, and explain how to repair each that fails.

Each check is independent: a missing part is reported, and the next one is checked. Nothing is changed, except for one
object of a few bytes, `{prefix}.reelkeeper-probe`: it is written once and left there, since only a purge may delete,
and each run tries to put other bytes there, which a bucket fit for Reelkeeper refuses (412). It is not a video:
listings leave it out. In a trial, and in a bucket that this store has not claimed, it is not written. `--contract`
puts and deletes more, in scratch prefixes of its own.
"""

import hashlib
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from uuid import uuid4

from reelkeeper.adapters import cloudflare, ffmpeg, providers
from reelkeeper.adapters.cloudflare.api import ANALYTICS
from reelkeeper.adapters.contract import DANGEROUS
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.disk import exposed
from reelkeeper.errors import IdentityMismatch, KeyTaken, ReelkeeperError, SchemaError, StorageError
from reelkeeper.operations.alerts.outbox import configured_sinks
from reelkeeper.operations.core.epochs import why_behind
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.core.workspace import (
    MAX_SKEW_FROM_BUCKET,
    MAX_SKEW_FROM_STORE,
    check_identity,
    describe_contract,
    is_on_trial,
    misplaced,
    open_bucket,
    place_of,
    require_no_inner_owner,
    try_contract,
)
from reelkeeper.operations.health import bucket_rules
from reelkeeper.operations.health.status import awaited_at
from reelkeeper.redaction import redacted
from reelkeeper.rules.core.wording import contract_gate, many
from reelkeeper.rules.sync.adoption import one_day_warning
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import controls, deployment, schema
from reelkeeper.store.core.engine import now, open_store, reading
from reelkeeper.store.lifecycle import doubts
from reelkeeper.store.sync.noted_counts import one_day_of_catalogue
from reelkeeper.store.sync.scans import BUCKET_EVENTS

OK, WARN, FAIL = "ok", "warn", "fail"
LITTLE_SPACE_BYTES = 5 * 10**9  # ten videos of the largest accepted size at the same time
NO_SPACE_BYTES = 10**9
_FOLLOWED_WITHIN = timedelta(minutes=15)
_OFF = "until it passes, no flow changes anything at the service's own keys"
_DANGER = "do not use this server: every flow that would change the bucket is refused"
_FIRST_A_STORE = "once the store is there, in a scratch prefix: reelkeeper doctor --contract"
_PROBE, _OTHER = b"Written once by reelkeeper doctor.\n", b"If you read this, the bucket took a second write.\n"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one part. `remedy` is empty where nothing needs to be done."""

    part: str
    state: str  # ok, warn, fail
    found: str
    remedy: str = ""


def examine(settings: Settings, *, claim: bool = False, contract: bool = False) -> Iterator[Finding]:
    """Check every part, in the order in which they depend on one another.

    `claim` writes the identity object for this store where the bucket has none; `contract` tries the bucket's contract.
    """
    yield _guarded("programs", _programs)
    deployed = awaited_at(settings)
    yield _guarded("media tools", _tools)
    if deployed.stores:
        yield from _tool_details()
    yield _guarded("scratch space", lambda: _space(settings))
    yield _guarded("privacy", lambda: _privacy(settings))
    yield _guarded("cloudflare", lambda: _cloudflare(settings))
    yield _guarded("alerts", lambda: _alerts(settings))
    if deployed.makes:
        yield _guarded("videos", lambda: Finding("videos", OK, providers.check_sources(settings)))
    with ExitStack() as stack:
        engine: Engine | None = None
        try:
            engine = stack.enter_context(open_store(settings, may_make=False))
            yield Finding("store", OK, f"{engine.url.render_as_string()}, schema {schema.head()}")
        except SchemaError as error:
            yield _failure("store", error)  # which says what to do
        except Exception as error:  # noqa: BLE001  whatever is wrong is what was asked for
            yield _failure("store", error, "check REELKEEPER_DATABASE_URL and that the server answers")
        if engine is not None:
            yield from _store_details(settings, engine, stores=deployed.stores)
        try:
            bucket = stack.enter_context(open_bucket(settings))
            elsewhere = misplaced(bucket)
        except Exception as error:  # noqa: BLE001  as above
            yield _failure("bucket", error, "check REELKEEPER_R2_ACCOUNT_ID or _S3_ENDPOINT_URL, the keys and _BUCKET")
            return
        where = settings.endpoint_url or f"the embedded server in {settings.state_dir / 's3'}"
        found = f"{bucket.name!r} at {where} answers, prefix {bucket.scope!r}"
        remedy = "set REELKEEPER_PREFIX to where the videos are, or / for all" if elsewhere else ""
        yield Finding("bucket", WARN if elsewhere else OK, elsewhere or found, remedy)
        yield from _bucket_details(settings, engine, bucket, claim=claim, contract=contract)
        if engine is not None and (deployed.stores or contract):
            yield from _contract(settings, engine, bucket, wanted=contract)
        elif contract:
            yield Finding("contract", FAIL, "not tried: there is no store that could record it", _FIRST_A_STORE)


def _store_details(settings: Settings, engine: Engine, *, stores: bool) -> Iterator[Finding]:
    yield _guarded("changes", lambda: _frozen(engine))
    yield _guarded("doubts", lambda: _doubts(engine))
    yield _guarded("ages", lambda: _ages(engine))
    if stores:
        yield _guarded("links", lambda: _links(settings, engine))
    if settings.event_queue_id:
        yield _guarded("events", lambda: _events(engine))


def _guarded(part: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # noqa: BLE001  whatever is wrong is what was asked for
        return _failure(part, error)


def _failure(part: str, error: Exception, remedy: str = "") -> Finding:
    text = str(error) if isinstance(error, ReelkeeperError) else f"{type(error).__name__}: {error}"
    first, *_ = redacted(text).splitlines() or [""]
    return Finding(part, FAIL, first, remedy)


def _programs() -> Finding:
    found = f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {metadata.version(name)}" for name in ("reelkeeper", "prefect", "sqlalchemy", "boto3")
    )
    return Finding("programs", OK, found)


def _tools() -> Finding:
    found = ffmpeg.tools()
    return Finding("media tools", OK, f"ffmpeg {found.ffmpeg_version}, ffprobe {found.ffprobe_version}")


def _tool_details() -> Iterator[Finding]:
    try:
        found = ffmpeg.tools()
    except Exception:  # noqa: BLE001  said above
        return
    wheel = "unset REELKEEPER_FFMPEG to use the wheel's"
    for codec in ("h264", "hevc", "av1", "vp9"):
        try:
            yield Finding(f"{codec} encoder", OK, found.encoder(codec))
        except ReelkeeperError as error:
            state = FAIL if codec == "h264" else WARN  # h264 is the default
            yield Finding(f"{codec} encoder", state, str(error), wheel)
    if found.measures_quality:
        yield Finding("quality filter", OK, "libvmaf is there")
    else:
        yield Finding("quality filter", FAIL, "no libvmaf, so no result could ever be accepted", wheel)
    if reached := found.walls.reached():
        remedy = ", ".join(f"{way} for {what}" for what, way in reached.items())
        left = f"allow {remedy}; or run transcodes in a container of their own, without a network"
        yield Finding("media sandbox", WARN, f"decoders can reach {', '.join(reached)}", left)
    else:
        yield Finding("media sandbox", OK, "decoders reach no network, no other file, no socket and no other process")


def _space(settings: Settings) -> Finding:
    place = next(folder for folder in (settings.scratch, *settings.scratch.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    state = FAIL if free < NO_SPACE_BYTES else WARN if free < LITTLE_SPACE_BYTES else OK
    remedy = "" if state == OK else "free some space, or set REELKEEPER_SCRATCH_DIR to a folder on a larger disk"
    return Finding("scratch space", state, f"{free / 10**9:.1f} GB free for {settings.scratch}", remedy)


def _privacy(settings: Settings) -> Finding:
    if found := exposed(settings.state_dir, *settings.state_dir.glob("store.sqlite3*")):
        names = " ".join(map(str, found))
        return Finding("privacy", WARN, f"other users of this machine can reach {names}", f"chmod go-rwx {names}")
    return Finding("privacy", OK, f"no other user of this machine can read {settings.state_dir}")


def _cloudflare(settings: Settings) -> Finding:
    client = cloudflare.connect(settings)
    if client is None:
        return Finding("cloudflare", OK, "no API token: usage is counted by the store alone")
    with closing(client):
        found = client.permissions()
    lacking = {name: error for name, error in found.items() if error}
    if not lacking:
        return Finding("cloudflare", OK, f"the token has {', '.join(found)}")
    state = FAIL if ANALYTICS in lacking else WARN  # without the others the bill is computed, and not compared
    return Finding("cloudflare", state, "; ".join(map(str, lacking.values())), f"allow the token {', '.join(lacking)}")


def _alerts(settings: Settings) -> Finding:
    sinks = configured_sinks(settings)
    if sinks.first is sinks.second:
        remedy = "set REELKEEPER_SLACK_BOT_TOKEN and _SLACK_CHANNEL, or REELKEEPER_SLACK_WEBHOOK_URL"
        return Finding("alerts", WARN, "alerts go to the console only, where nobody may see them", remedy)
    return Finding(
        "alerts", OK, f"to {sinks.first.name}, else to {sinks.second.name}; reelkeeper alerts test tries both"
    )


def _frozen(engine: Engine) -> Finding:
    reason = why_frozen(engine)
    return Finding("changes", WARN if reason else OK, reason or "not frozen")


def _links(settings: Settings, engine: Engine) -> Finding:
    with reading(engine) as session:
        failed = deployment.contract_failed(session, settings.endpoint_url or "", settings.bucket)
    return Finding("links", OK, contract_gate(failed) if failed else current(engine).policies.links)


def _doubts(engine: Engine) -> Finding:
    with reading(engine) as session:
        found = doubts.listed(session)
    if not found:
        return Finding("doubts", OK, "no object is in doubt")
    text = f"{many(len(found), 'object')} not as recorded, since {found[0].since:%Y-%m-%d %H:%M}: {found[0].key}"
    return Finding("doubts", WARN, text, "reelkeeper doubts lists each; reelkeeper doubts settle ID ends one")


def _ages(engine: Engine) -> Finding:
    with reading(engine) as session:
        found, _, remedy = (one_day_warning(one_day_of_catalogue(session)) or "").partition(". ")
    return Finding("ages", WARN if found else OK, found or "no day has most of the videos", remedy)


def _events(engine: Engine) -> Finding:
    """Check how R2's event notifications are followed; the queue itself is not read, since a pull takes messages."""
    with reading(engine) as session:
        kept, at = controls.kept(session, BUCKET_EVENTS), now(session)
    if kept is None or at - kept.updated_at > _FOLLOWED_WITHIN:
        last = f"since {kept.updated_at:%Y-%m-%d %H:%M}" if kept else "yet"
        remedy = "check that a worker of the pool main runs with REELKEEPER_EVENT_QUEUE_ID, and see its log"
        return Finding("events", WARN, f"no worker has followed R2's events {last}", remedy)
    empty_at = kept.state["caught_up_at"]
    if empty_at is None or at - datetime.fromisoformat(empty_at) > _FOLLOWED_WITHIN:
        return Finding("events", WARN, "the event queue has not been empty recently", "see the log of the workers")
    return Finding("events", OK, f"followed: {kept.state['counts'].get('messages', 0):,} messages so far")


def _bucket_details(
    settings: Settings, engine: Engine | None, bucket: Bucket, *, claim: bool, contract: bool
) -> Iterator[Finding]:
    if engine is not None:
        yield _guarded("identity", partial(_identity, engine, bucket, claim=claim))
        yield _guarded("copies", partial(_copies, engine, bucket))
    if reads_only := _why_it_only_reads(settings, engine, bucket):
        yield from (Finding(part, WARN, *reads_only) for part in _WRITE if not contract)
    else:
        yield from (_guarded(part, partial(look, bucket)) for part, look in _WRITE.items())
    yield _guarded("clocks", lambda: _clocks(engine, bucket))
    yield _guarded("lifecycle rules", lambda: _rules("lifecycle rules", bucket_rules.expiring(settings, bucket)))
    if settings.endpoint_url:
        yield _guarded("lock rules", lambda: _rules("lock rules", bucket_rules.locking(settings, bucket)))
    if settings.r2_account_id is None and settings.endpoint_url is None:
        yield Finding(
            "production", WARN, "videos are on this machine's disk", "set REELKEEPER_R2_ACCOUNT_ID and keys for R2"
        )


def _why_it_only_reads(settings: Settings, engine: Engine | None, bucket: Bucket) -> tuple[str, str] | None:
    """Say why no probe is written, and what tries it; None where the bucket is this store's, or on this machine."""
    if settings.r2_account_id is None and settings.endpoint_url is None:
        return None
    tries = _FIRST_A_STORE if engine is None else "`contract` says what it found: reelkeeper doctor --contract"
    # guard trial.probe: doctor writes into a bucket that `up` only looks at, where a prefix was mistyped, too
    if engine is not None and is_on_trial(engine, bucket):
        return "left to the contract test: it would write into a bucket on trial", tries
    # guard identity.probe: doctor writes into a bucket that nobody has given to this store
    if engine is None or not _is_ours(engine, bucket):
        return "left to the contract test: it would write into a bucket that this store has not claimed", tries
    return None


def _is_ours(engine: Engine, bucket: Bucket) -> bool:
    with reading(engine) as session:
        deployment_id = schema.deployment(session).id
    try:
        return check_identity(bucket, deployment_id, may_claim=True, writes=False)
    except ReelkeeperError:  # what is wrong is said of the identity: the other parts are still checked
        return False


def _rules(part: str, found: tuple[bool, str, str]) -> Finding:
    warns, text, remedy = found
    return Finding(part, WARN if warns else OK, text, remedy)


def _contract(settings: Settings, engine: Engine, bucket: Bucket, *, wanted: bool) -> Iterator[Finding]:
    if wanted:
        try:
            for result in try_contract(engine, bucket, settings, run_id=f"doctor/{uuid4().hex[:12]}"):
                off = _DANGER if result.check in DANGEROUS else _OFF
                remedy = "" if result.passed else f"{off}; see docs/r2.md, Test the bucket"
                yield Finding(f"contract: {result.check}", OK if result.passed else FAIL, result.seen, remedy)
        except Exception as error:  # noqa: BLE001  whatever is wrong is what was asked for
            yield _failure("contract", error)
            return
    with reading(engine) as session:
        failed = deployment.contract_failed(session, bucket.endpoint_url, bucket.name)
    passed, text = describe_contract(engine, bucket.endpoint_url, bucket.name)
    if not wanted and failed & DANGEROUS:
        yield Finding("contract", FAIL, text, f"{_DANGER}; see docs/r2.md, Test the bucket")
        return
    if settings.endpoint_url is None and not passed:
        passed, text = True, "Reelkeeper's own tests check the embedded server: features that depend on it are on"
    way_out = "; see docs/r2.md, Test the bucket"
    if not failed:
        way_out = ". To run the test, in its own scratch prefix: reelkeeper doctor --contract"
    remedy = "" if passed else f"{_OFF}{way_out}"
    yield Finding("contract", OK if passed else WARN, text, remedy)


def _identity(engine: Engine, bucket: Bucket, *, claim: bool) -> Finding:
    with reading(engine) as session:
        deployment_id = schema.deployment(session).id
        knows_objects, standing = deployment.knows_objects(session), deployment.standing(session)
    has_no_owner = bucket.head(bucket.identity_key) is None
    if has_no_owner and knows_objects and (wrong := standing.elsewhere(place_of(bucket))):
        return Finding("identity", FAIL, wrong)
    # guard trial.claimed_by_hand: `doctor --claim` ends a trial, and lets commands write, without a word
    if has_no_owner and standing.place is not None:
        text = "this store is on trial, and only reads" + (": nothing was claimed" if claim else "")
        return Finding("identity", FAIL if claim else OK, text, "reelkeeper up --live claims the bucket")
    if has_no_owner and not claim and knows_objects:
        remedy = "probably the wrong bucket; if it is the right one: reelkeeper doctor --claim"
        text = "the store has records of objects, but this bucket has no identity object"
        return Finding("identity", FAIL, text, remedy)
    try:
        if has_no_owner and not claim:
            check_identity(bucket, deployment_id, may_claim=True, writes=False)
            require_no_inner_owner(bucket, deployment_id)
            return Finding("identity", OK, "the bucket has no owner yet: the first run with --apply claims it")
        check_identity(bucket, deployment_id, may_claim=claim)
    except IdentityMismatch as error:
        remedy = "use the bucket and store that belong together; --claim never takes over a bucket"
        return Finding("identity", FAIL, str(error), remedy)
    return Finding("identity", OK, f"the bucket belongs to this store, {deployment_id}")


def _copies(engine: Engine, bucket: Bucket) -> Finding:
    if why := why_behind(engine, bucket):
        remedy = "in the copy that is to go on: reelkeeper db adopt"
        return Finding("copies", FAIL, f"{why}; it deletes nothing", remedy)
    return Finding("copies", OK, "this store knows all that was restored, held or deleted in its bucket")


def _put_once(bucket: Bucket) -> Finding:
    try:
        bucket.put_bytes_once(bucket.probe_key, _PROBE, "text/plain")
        bucket.put_bytes_once(bucket.probe_key, _OTHER, "text/plain")
    except KeyTaken:
        return Finding("put once", OK, "a second write to a key is refused (412)")
    remedy = "do not use this server: a delayed write could replace a customer's video"
    return Finding("put once", FAIL, f"If-None-Match is ignored: {bucket.probe_key} was overwritten", remedy)


def _etag(bucket: Bucket) -> Finding:
    stored = bucket.head(bucket.probe_key)
    if stored is None:
        raise StorageError(f"{bucket.probe_key} was written, but is missing")
    digests = {hashlib.md5(data, usedforsecurity=False).hexdigest() for data in (_PROBE, _OTHER)}
    if stored.etag in digests:
        return Finding("ETag", OK, "the ETag of a single PUT is the MD5 of its bytes")
    remedy = "use a bucket without server-side encryption keys: purges compare ETags with the recorded MD5"
    return Finding("ETag", FAIL, f"{stored.etag} is not the MD5 of the bytes that were put", remedy)


_WRITE = {"put once": _put_once, "ETag": _etag}  # in this order


def _clocks(engine: Engine | None, bucket: Bucket) -> Finding:
    here, there = datetime.now(UTC), bucket.server_time()
    skews = {"bucket": (abs(here - there), MAX_SKEW_FROM_BUCKET)}
    if engine is not None:
        with reading(engine) as session:
            skews["store"] = (abs(datetime.now(UTC) - now(session)), MAX_SKEW_FROM_STORE)
    found = ", ".join(
        f"{name} {skew.total_seconds():.0f} s away (limit {limit.total_seconds():.0f} s)"
        for name, (skew, limit) in skews.items()
    )
    if any(skew > limit for skew, limit in skews.values()):
        return Finding("clocks", FAIL, found, "set the clocks (NTP): no age can be trusted")
    return Finding("clocks", OK, found)
