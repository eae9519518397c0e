"""Check the bucket for `doctor`: whose it is, what it does with a write, its clock, its rules and its contract.

`{prefix}.reelkeeper-probe` is written once and left there, since only a purge may delete, and each run tries to put
other bytes there, which a bucket fit for Reelkeeper refuses (412). It is not a video: listings leave it out.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar
from uuid import uuid4

from reelkeeper.adapters import cloudflare
from reelkeeper.adapters import contract as bucket_contract
from reelkeeper.adapters.cloudflare.client import Client
from reelkeeper.adapters.contract import CHECKS, DANGEROUS, Result, Target
from reelkeeper.adapters.s3.keys import PROBE_BYTES
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import IdentityMismatch, KeyTaken, ReelkeeperError, StorageError
from reelkeeper.model.buckets import Expiry, touches
from reelkeeper.operations.core.epochs import why_behind
from reelkeeper.operations.core.workspace import (
    MAX_SKEW_FROM_BUCKET,
    MAX_SKEW_FROM_STORE,
    Workspace,
    check_identity,
    flush_operations,
    is_on_trial,
    place_of,
    require_no_inner_owner,
)
from reelkeeper.operations.health import FAIL, OK, WARN, Finding, failure, guarded
from reelkeeper.redaction import redacted
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import deployment, schema
from reelkeeper.store.core.engine import now, reading, transaction

FIRST_A_STORE = "once the store is there, in a scratch prefix: reelkeeper doctor --contract"
_OFF = "until it passes, no flow changes anything at the service's own keys"
_DANGER = "do not use this server: every flow that would change the bucket is refused"
_SEE = "see docs/r2.md, Test the bucket"
_MAY_READ: Final = "allow REELKEEPER_CLOUDFLARE_API_TOKEN Workers R2 Storage: Read, or look in the dashboard"
_Rule = TypeVar("_Rule")
_OTHER = b"If you read this, the bucket took a second write.\n"


def examine_bucket(
    settings: Settings, engine: Engine | None, bucket: Bucket, *, claim: bool, contract: bool
) -> Iterator[Finding]:
    """Check all but the contract; `claim` writes the identity object where the bucket has none."""
    if engine is not None:
        yield guarded("identity", partial(_identity, engine, bucket, claim=claim))
        yield guarded("copies", partial(_copies, engine, bucket))
    if reads_only := _why_it_only_reads(settings, engine, bucket):
        yield from () if contract else _left_to_contract(engine, bucket, reads_only)
    else:
        yield from (guarded(part, partial(look, bucket)) for part, look in _WRITE.items())
    yield guarded("clocks", lambda: _clocks(engine, bucket))
    yield guarded("lifecycle rules", lambda: _expiring(settings, bucket))
    if settings.endpoint_url:
        yield guarded("lock rules", lambda: _locking(settings, bucket))
    if settings.r2_account_id is None and settings.endpoint_url is None:
        yield Finding(
            "production", WARN, "videos are on this machine's disk", "set REELKEEPER_R2_ACCOUNT_ID and keys for R2"
        )


def _left_to_contract(engine: Engine | None, bucket: Bucket, reads_only: tuple[str, str]) -> Iterator[Finding]:
    """Report what the contract test found where no probe is written: it makes the same checks."""
    tried = None
    if engine is not None:
        with reading(engine) as session:
            tried = deployment.contract_at(session, bucket.endpoint_url, bucket.name)
    for part in _WRITE:
        if tried and part in tried.passed:
            yield Finding(part, OK, f"as it has to be, in the contract test of {tried.at:%Y-%m-%d %H:%M}")
        elif tried and part in tried.failed:
            yield Finding(part, FAIL, f"failed in the contract test of {tried.at:%Y-%m-%d %H:%M}", _SEE)
        else:
            yield Finding(part, WARN, *reads_only)


def _why_it_only_reads(settings: Settings, engine: Engine | None, bucket: Bucket) -> tuple[str, str] | None:
    """Return why no probe is written, and the remedy; None where the bucket is this store's, or on this machine."""
    if settings.r2_account_id is None and settings.endpoint_url is None:
        return None
    tries = FIRST_A_STORE if engine is None else "to run it, in its own scratch prefix: reelkeeper doctor --contract"
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


def examine_contract(settings: Settings, engine: Engine, bucket: Bucket, *, wanted: bool) -> Iterator[Finding]:
    """Test the bucket if it is `wanted`, and say what the last test of this bucket found."""
    if wanted:
        try:
            for result in try_contract(engine, bucket, settings, run_id=f"doctor/{uuid4().hex[:12]}"):
                off = _DANGER if result.check in DANGEROUS else _OFF
                remedy = "" if result.passed else f"{off}; {_SEE}"
                yield Finding(f"contract: {result.check}", OK if result.passed else FAIL, result.seen, remedy)
        except Exception as error:  # noqa: BLE001  whatever is wrong is what was asked for
            yield failure("contract", error)
            return
    with reading(engine) as session:
        failed = deployment.contract_failed(session, bucket.endpoint_url, bucket.name)
    passed, text = describe_contract(engine, bucket.endpoint_url, bucket.name)
    if not wanted and failed & DANGEROUS:
        yield Finding("contract", FAIL, text, f"{_DANGER}; {_SEE}")
        return
    if settings.endpoint_url is None and not passed:
        passed, text = True, "Reelkeeper's own tests check the embedded server: features that depend on it are on"
    way_out = f"; {_SEE}"
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
        bucket.put_bytes_once(bucket.probe_key, PROBE_BYTES, "text/plain")
        bucket.put_bytes_once(bucket.probe_key, _OTHER, "text/plain")
    except KeyTaken:
        return Finding("put once", OK, "a second write to a key is refused (412)")
    remedy = "do not use this server: a delayed write could replace a customer's video"
    return Finding("put once", FAIL, f"If-None-Match is ignored: {bucket.probe_key} was overwritten", remedy)


def _etag(bucket: Bucket) -> Finding:
    stored = bucket.head(bucket.probe_key)
    if stored is None:
        raise StorageError(f"{bucket.probe_key} was written, but is missing")
    digests = {hashlib.md5(data, usedforsecurity=False).hexdigest() for data in (PROBE_BYTES, _OTHER)}
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


def _expiring(settings: Settings, bucket: Bucket) -> Finding:
    """Describe lifecycle rules that delete or move objects, read by the first of two APIs that the token permits."""
    rules: list[Expiry] | str
    try:
        rules = bucket.expiries()
    except StorageError as error:
        rules = _asked(settings, Client.expiries, f"these keys are not permitted to read them ({_in_short(error)})")
    if isinstance(rules, str):
        return Finding("lifecycle rules", WARN, rules, _MAY_READ)
    touching = [rule for rule in rules if touches(rule, bucket.prefix)]
    if not touching:
        return Finding("lifecycle rules", OK, f"no rule deletes or moves objects under {bucket.scope!r}")
    found = "; ".join(f"rule {rule.id!r} {rule.does} under {rule.prefix or 'every prefix'!r}" for rule in touching)
    remedy = "remove it: it deletes or moves objects without Reelkeeper, and with no grace period"
    return Finding("lifecycle rules", WARN, found, remedy)


def _locking(settings: Settings, bucket: Bucket) -> Finding:
    """Describe lock rules, which keep what is purged or overwritten."""
    rules = _asked(settings, Client.locks, "they can only be read from Cloudflare's API, with an API token")
    if isinstance(rules, str):
        return Finding("lock rules", WARN, rules, _MAY_READ)
    touching = [rule for rule in rules if touches(rule, bucket.prefix)]
    if not touching:
        found = f"no rule covers {bucket.scope!r}: everything with write access can also delete and overwrite"
        return Finding("lock rules", OK, found)
    which = "; ".join(f"rule {rule.id!r} locks {rule.prefix or 'every prefix'!r} {rule.lasts}" for rule in touching)
    helps = "until then, nobody can delete or overwrite an object there, by mistake or on purpose"
    hinders = "purges and overwrites by your service are refused until then"
    ends = all(rule.ends for rule in touching)
    remedy = "" if ends else "objects there can never be purged: lock by age, for no longer than retention and grace"
    return Finding("lock rules", OK if ends else WARN, f"{which}: {helps}; {hinders}", remedy)


def _asked(
    settings: Settings, ask: Callable[[Client, str, str | None], list[_Rule]], otherwise: str
) -> list[_Rule] | str:
    """Read the rules from Cloudflare's API, or say why they are unknown: `otherwise`, where there is no token."""
    client = cloudflare.connect(settings)
    if client is None:
        return f"unknown: {otherwise}"
    with closing(client):
        try:
            return ask(client, settings.bucket, settings.jurisdiction)
        except ReelkeeperError as refused:
            return f"unknown: {_in_short(refused)}"


def _in_short(error: Exception) -> str:
    return redacted(str(error)).partition(";")[0][:200]


def require_may_go_live(opened: Workspace, settings: Settings) -> None:
    """Raise what would refuse to claim the bucket, or to write there, before a person agrees to it. Stores nothing."""
    bucket_contract.require_write(_contract_target(opened.bucket, settings))
    if not opened.is_ours:
        require_no_inner_owner(opened.bucket, opened.deployment_id)


def try_contract(engine: Engine, bucket: Bucket, settings: Settings, *, run_id: str) -> Iterator[Result]:
    """Run every check in scratch prefixes of the bucket; record results and sent operations after the last one."""
    results = []
    for result in bucket_contract.run(_contract_target(bucket, settings)):
        results.append(result)
        yield result
    passed, failed = ([result.check for result in results if result.passed is so] for so in (True, False))
    with transaction(engine, "contract.record") as session:
        deployment.record_contract(session, bucket.endpoint_url, bucket.name, passed, failed, run_id=run_id)
    flush_operations(engine, bucket)


def describe_contract(engine: Engine, endpoint_url: str, name: str) -> tuple[bool, str]:
    """Return whether the bucket has passed the contract, with its time or what is missing."""
    with reading(engine) as session:
        tried = deployment.contract_at(session, endpoint_url, name)
    if tried is None:
        return False, "the contract test has not run on this bucket, so features that depend on it are off"
    test = f"the contract test of {tried.at:%Y-%m-%d %H:%M}"
    if failed := [check for check in CHECKS if check in tried.failed]:
        return False, f"in {test}, {', '.join(failed)} did not pass"
    if new := [check for check in CHECKS if check not in tried.passed]:
        return False, f"{test} passed, but this version of Reelkeeper also checks {', '.join(new)}"
    return True, f"the contract test passed, {len(CHECKS)} checks, {tried.at:%Y-%m-%d %H:%M} UTC"


def _contract_target(bucket: Bucket, settings: Settings) -> Target:
    return Target(bucket, *bucket.credentials, settings.s3_region)
