"""Check every part that Reelkeeper depends on, and explain how to repair each that fails.

Each check is independent: a missing part is reported, and the next one is checked. Nothing is changed, except for one
object of a few bytes, `{prefix}.reelkeeper-probe`. In a trial, and in a bucket that this store has not claimed, it is
not written. `--contract` puts and deletes more, in scratch prefixes of its own.
"""

import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from importlib import metadata

from reelkeeper.adapters import cloudflare, ffmpeg, providers
from reelkeeper.adapters.cloudflare.api import ANALYTICS
from reelkeeper.adapters.contract import CHECKS
from reelkeeper.disk import exposed
from reelkeeper.errors import ReelkeeperError, SchemaError
from reelkeeper.operations.alerts.outbox import configured_sinks
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.core.workspace import misplaced, open_bucket
from reelkeeper.operations.health import FAIL, OK, WARN, Finding, failure, guarded
from reelkeeper.operations.health.bucket_checks import FIRST_A_STORE, examine_bucket, examine_contract
from reelkeeper.operations.health.status import awaited_at
from reelkeeper.rules.core.wording import contract_gate, many
from reelkeeper.rules.sync.adoption import one_day_warning
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import controls, deployment, schema
from reelkeeper.store.core.engine import now, open_store, reading
from reelkeeper.store.lifecycle import doubts
from reelkeeper.store.sync.noted_counts import one_day_of_catalogue
from reelkeeper.store.sync.scans import BUCKET_EVENTS

LITTLE_SPACE_BYTES = 5 * 10**9  # ten videos of the largest accepted size at the same time
NO_SPACE_BYTES = 10**9
_FOLLOWED_WITHIN = timedelta(minutes=15)


def examine(settings: Settings, *, claim: bool = False, contract: bool = False) -> Iterator[Finding]:
    """Check every part, in the order in which they depend on one another.

    `claim` writes the identity object for this store where the bucket has none; `contract` tries the bucket's contract.
    """
    yield guarded("programs", _programs)
    deployed = awaited_at(settings)
    yield guarded("media tools", _tools)
    if deployed.stores:
        yield from _tool_details()
    yield guarded("scratch space", lambda: _space(settings))
    yield guarded("privacy", lambda: _privacy(settings))
    yield guarded("cloudflare", lambda: _cloudflare(settings))
    yield guarded("alerts", lambda: _alerts(settings))
    if deployed.makes:
        yield guarded("vendors", lambda: Finding("vendors", OK, providers.check_sources(settings)))
    with ExitStack() as stack:
        engine: Engine | None = None
        try:
            engine = stack.enter_context(open_store(settings, may_make=False))
            yield Finding("store", OK, f"{engine.url.render_as_string()}, schema {schema.head()}")
        except SchemaError as error:
            yield failure("store", error)  # which says what to do
        except Exception as error:  # noqa: BLE001  whatever is wrong is what was asked for
            yield failure("store", error, "check REELKEEPER_DATABASE_URL and that the server answers")
        if engine is not None:
            yield from _store_details(settings, engine, stores=deployed.stores)
        try:
            bucket = stack.enter_context(open_bucket(settings))
            elsewhere = misplaced(bucket)
        except Exception as error:  # noqa: BLE001  as above
            yield failure("bucket", error, "check REELKEEPER_R2_ACCOUNT_ID or _S3_ENDPOINT_URL, the keys and _BUCKET")
            return
        where = settings.endpoint_url or f"the embedded server in {settings.state_dir / 's3'}"
        found = f"{bucket.name!r} at {where} answers, prefix {bucket.scope!r}"
        remedy = "set REELKEEPER_PREFIX to where the videos are, or / for all" if elsewhere else ""
        yield Finding("bucket", WARN if elsewhere else OK, elsewhere or found, remedy)
        yield from examine_bucket(settings, engine, bucket, claim=claim, contract=contract)
        if engine is not None and (deployed.stores or contract):
            yield from examine_contract(settings, engine, bucket, wanted=contract)
        elif contract:
            yield Finding("contract", FAIL, "not tried: there is no store that could record it", FIRST_A_STORE)


def _store_details(settings: Settings, engine: Engine, *, stores: bool) -> Iterator[Finding]:
    yield guarded("changes", lambda: _frozen(engine))
    yield guarded("doubts", lambda: _doubts(engine))
    yield guarded("ages", lambda: _ages(engine))
    if stores:
        yield guarded("links", lambda: _links(settings, engine))
    if settings.event_queue_id:
        yield guarded("events", lambda: _events(engine))


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
    """Report what becomes of links; until the bucket has passed the contract test, that no object is changed."""
    at = settings.endpoint_url or "", settings.bucket
    with reading(engine) as session:
        passed, failed = deployment.contract_passed(session, *at, CHECKS), deployment.contract_failed(session, *at)
    is_on = passed or settings.endpoint_url is None  # the tests check the embedded server
    return Finding("links", OK, current(engine).policies.links if is_on else contract_gate(failed))


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
