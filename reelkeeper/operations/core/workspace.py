"""The workspace: a store and its bucket. Nothing changes a bucket that does not belong to this store."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from reelkeeper.adapters.contract import CHECKS, DANGEROUS
from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.adapters.s3.keys import DEFAULT_LAYOUT
from reelkeeper.adapters.s3.listing import PAGE_KEYS
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.transport import Patience, is_refusal
from reelkeeper.errors import (
    IdentityMismatch,
    IntegrityDoubt,
    KeyTaken,
    Misconfigured,
    ObjectMissing,
    OnTrial,
    ReelkeeperError,
    StorageError,
)
from reelkeeper.failpoints import effect
from reelkeeper.model.key_patterns import KeyPattern, compiled
from reelkeeper.model.money import Metric, Used
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.lifecycle.levers import nothing_under
from reelkeeper.rules.policies import SHIPPED, InForce
from reelkeeper.settings import Settings
from reelkeeper.store import Engine, Session, SQLAlchemyError
from reelkeeper.store.billing import usage
from reelkeeper.store.core import deployment
from reelkeeper.store.core.deployment import Standing
from reelkeeper.store.core.engine import now, open_store, reading, transaction
from reelkeeper.store.core.failures import safe_to_repeat

_OPENING, _LASTING = Patience(attempts=4, silence_seconds=8.0), Patience(silence_seconds=8.0)  # 39 s at most, and 103 s
MAX_SKEW_FROM_STORE, MAX_SKEW_FROM_BUCKET = timedelta(seconds=60), timedelta(seconds=300)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A store and its bucket, whose identity object was checked. `layout` parses the service's keys.

    `in_force` is that of the moment of opening, for a run or a command. A longer-lived process asks the store.
    `keeps_contract`: the bucket has passed the checks that changes at the service's keys rely on. `dangers`: the checks
    that it has failed and that changes at keys of ours rely on, too. `is_ours`: it has our identity object. `on_trial`:
    nothing there may be changed; `live_at` is the place where `up --live` was confirmed, if any. `assumes_contract`:
    plans have the videos at the service's keys, as nothing is carried out: it is on trial, and has failed no check.
    """

    engine: Engine
    bucket: Bucket
    deployment_id: str
    in_force: InForce = SHIPPED
    layout: tuple[KeyPattern, ...] = DEFAULT_LAYOUT
    keeps_contract: bool = False
    dangers: tuple[str, ...] = ()
    is_ours: bool = True
    on_trial: bool = False
    assumes_contract: bool = False
    live_at: str | None = None

    @property
    def plans_service_keys(self) -> bool:
        """Check whether plans have the videos at the service's keys."""
        return self.keeps_contract or self.assumes_contract

    def has_kept_contract(self, session: Session) -> bool:
        """Check whether the bucket keeps the contract by now, for a process that lives longer than a run."""
        at = self.bucket
        return self.keeps_contract or deployment.contract_passed(session, at.endpoint_url, at.name, CHECKS)

    def require_live(self) -> None:
        """Raise OnTrial where nothing may be changed: before a plan is used up, or a row says what was not done."""
        # guard trial.changes: what only the store knows is changed in a trial: plans are used up, videos retired
        if self.on_trial:
            raise OnTrial(self.live_at)

    def require_safe(self) -> None:
        """Raise Misconfigured if the bucket has failed a check of the contract without which videos can be lost."""
        # guard identity.dangers: a flow writes to a server that replaces objects which are written once
        if self.dangers:
            raise Misconfigured(
                f"bucket {self.bucket.name!r} has failed {', '.join(self.dangers)} of the contract test, so a late or "
                "repeated request could replace a customer's video: no flow changes it. Use another server; or, once "
                "this one is mended: reelkeeper doctor --contract"
            )


@contextmanager
def open_workspace(
    settings: Settings, *, claims: bool = True, goes_live: bool = False, patience_seconds: float = 0.0
) -> Iterator[Workspace]:
    """Open store and bucket as configured; create and upgrade the embedded store first.

    Without `claims`, as in a dry run, nothing is written into a bucket without an owner; nor in a trial, unless it
    `goes_live`. With `patience_seconds`, PostgreSQL is tried for as long, now and within the block, the bucket longer.
    Raises IdentityMismatch when the bucket is not this store's, SchemaError when the store has another version,
    IntegrityDoubt when the clocks differ too much to judge ages.
    """
    opened = open_bucket(settings, _LASTING if patience_seconds else None)
    with open_store(settings, patience_seconds=patience_seconds) as engine, opened as bucket:
        try:
            embedded = settings.endpoint_url is None  # the tests check its contract
            layout = compiled(settings.key_pattern)
            yield join(engine, bucket, layout, keeps_contract=embedded, claims=claims, goes_live=goes_live)
        finally:
            with suppress(SQLAlchemyError):  # a lost count must not hide the outcome of the work
                flush_operations(engine, bucket)


def flush_operations(engine: Engine, bucket: Bucket) -> int:
    """Record the operations that `bucket` has counted; return how many. On a failure they stay counted."""
    counts = bucket.meter.take()
    if not counts:
        return 0
    try:
        with transaction(engine, "usage.flush") as session:
            sent = [Used(day, Metric.OPERATIONS, count, action) for (day, action), count in counts.items()]
            usage.record(session, sent, add=True)
    except BaseException:
        bucket.meter.give_back(counts)
        raise
    return sum(counts.values())


@contextmanager
def open_bucket(settings: Settings, patience: Patience | None = None) -> Iterator[Bucket]:
    """Open the configured bucket, or run the embedded server within the block.

    Raises Misconfigured where it refuses bucket or keys, StorageError where nothing answers in the time of `patience`;
    DiskFull, now or from any request later, where the disk of the embedded one is full.
    """
    place = settings.bucket, settings.prefix
    if settings.endpoint_url and settings.s3_access_key_id and settings.s3_secret_access_key:
        open_configured = partial(
            r2.connect,
            settings.endpoint_url,
            settings.s3_access_key_id.get_secret_value(),
            settings.s3_secret_access_key.get_secret_value(),
            *place,
            region=settings.s3_region,
        )
        open_configured(patience=patience or _OPENING).require_answer()
        yield open_configured()
    else:
        folder = settings.state_dir / "s3"
        with seaweed.running(folder, settings.bucket) as endpoint:
            yield r2.connect(
                endpoint.endpoint_url,
                endpoint.access_key_id,
                endpoint.secret_access_key,
                *place,
                # a full disk makes it answer 500 to every put
                patience=Patience(before_retry=partial(seaweed.require_room, folder, has_refused=True)),
            )


@safe_to_repeat
def join(
    engine: Engine,
    bucket: Bucket,
    layout: tuple[KeyPattern, ...] = DEFAULT_LAYOUT,
    *,
    keeps_contract: bool = False,
    claims: bool = True,
    goes_live: bool = False,
) -> Workspace:
    """Check that store and bucket belong together and that their clocks agree.

    `keeps_contract` skips the check for a bucket that needs no `reelkeeper doctor --contract`. Without `claims`, a
    bucket without an owner stays so; so does that of a trial, and it is only read, unless the trial `goes_live`. Once
    `up` has run with a store, every place is a trial but the one where `up --live` was confirmed.
    """
    with reading(engine) as session:
        deployment_id, knows_objects = deployment.identity(session), deployment.knows_objects(session)
        standing, here = deployment.standing(session), place_of(bucket)
        store_time, found = now(session), in_force(session)
        # guard identity.contract: the service's keys are purged in a bucket that has not passed the contract
        passed = keeps_contract or deployment.contract_passed(session, bucket.endpoint_url, bucket.name, CHECKS)
        failed = deployment.contract_failed(session, bucket.endpoint_url, bucket.name)
    is_trial = standing.only_reads(here)
    # guard trial.claims: the API, or any command, claims a bucket on trial
    writes = goes_live if is_trial else claims
    may_claim = standing.place == here or not knows_objects
    is_ours = check_identity(bucket, deployment_id, may_claim=may_claim, writes=writes, wrong=standing.elsewhere(here))
    # guard trial.reads: a hold, an upload or a run changes a bucket that `up` only looks at
    if on_trial := is_trial and not goes_live:
        bucket.only_read(standing.live)
    _check_clocks(store_time, bucket.server_time())
    dangers = tuple(sorted(failed & DANGEROUS))
    assumes = on_trial and not failed
    return Workspace(
        engine, bucket, deployment_id, found, layout, passed, dangers, is_ours, on_trial, assumes, standing.live
    )


def place_of(bucket: Bucket) -> str:
    """Return the address of a bucket's prefix, as a trial records it."""
    return _place(bucket.endpoint_url, bucket.name, bucket.prefix)


def _place(endpoint_url: str, bucket: str, prefix: str) -> str:
    return f"{endpoint_url}/{bucket}/{prefix}"


def is_live(settings: Settings) -> bool:
    """Check whether `up --live` was confirmed at the configured address, or the bucket is the embedded one."""
    if settings.endpoint_url is None:
        return True
    return _standing(settings).live == _place(settings.endpoint_url, settings.bucket, settings.prefix)


def trial_at(settings: Settings) -> OnTrial | None:
    """Return what refuses changes where this store only reads the configured bucket, which itself is not asked."""
    if settings.endpoint_url is None:
        return None
    standing, here = _standing(settings), _place(settings.endpoint_url, settings.bucket, settings.prefix)
    return OnTrial(standing.live) if standing.only_reads(here) else None


def _standing(settings: Settings) -> Standing:
    with open_store(settings) as engine, reading(engine) as session:
        return deployment.standing(session)


def is_on_trial(engine: Engine, bucket: Bucket | None = None) -> bool:
    """Check whether this store only reads a bucket; without one, whether `up` tries one out."""
    with reading(engine) as session:
        standing = deployment.standing(session)
    return standing.only_reads(place_of(bucket)) if bucket else standing.place is not None


def unclaimed(settings: Settings) -> str | None:
    """Return the key of the object by which the first change claims the configured bucket.

    None where it has an owner or only this store uses it, this store is on trial, or the bucket does not answer.
    """
    if settings.endpoint_url is None:
        return None
    with suppress(ReelkeeperError), open_store(settings) as engine, open_bucket(settings) as bucket:
        if not is_on_trial(engine, bucket) and bucket.head(bucket.identity_key) is None:
            return bucket.identity_key
    return None


def note_trial(engine: Engine, bucket: Bucket, *, begins: bool, embedded: bool = False) -> None:
    """Record for all processes of this store that it only reads this bucket, or that it is live there.

    The embedded bucket, whose address is another at each start, ends any trial.
    """
    here = place_of(bucket)
    with transaction(engine, "trial") as session:
        before = deployment.standing(session)
        live = Standing() if embedded else Standing(live=here)
        deployment.set_standing(session, before._replace(place=here) if begins else live)


def check_identity(
    bucket: Bucket, deployment_id: str, *, may_claim: bool, writes: bool = True, wrong: str = ""
) -> bool:
    """Compare the bucket's identity object with the store's deployment id.

    A bucket without one is claimed if `may_claim`, unless another store owns a prefix that contains this one; of two
    stores that claim it at once, the first wins. Without `writes`, it is only checked whether it could be claimed.
    `wrong` says what is wrong where it may not be claimed. Return whether the bucket is this store's.
    """
    key = bucket.identity_key
    try:
        found = _owner(bucket)
    except ObjectMissing:
        # guard identity.empty_bucket: a store claims an empty bucket, and marks every video as lost
        if not may_claim:
            raise IdentityMismatch(
                wrong
                or f"bucket {bucket.name!r} has no identity object {key!r}, but this store has records of objects: "
                "probably the wrong bucket. If it is the right one, write it again: reelkeeper doctor --claim"
            ) from None
        # guard identity.wider: two stores retire and purge the same videos until the wider one lists the bucket
        _require_no_wider_owner(bucket, deployment_id)
        # guard identity.dry_run: a dry run with a mistyped prefix claims somebody else's
        if not writes:
            return False
        # guard identity.inner: a store claims the whole bucket around another store's folder
        require_no_inner_owner(bucket, deployment_id)
        try:
            with effect("identity.put"):
                bucket.put_bytes_once(key, json.dumps({"deployment": deployment_id}).encode(), "application/json")
        except KeyTaken:
            return check_identity(bucket, deployment_id, may_claim=False)
        return True
    # guard identity.other_bucket: a store deletes in another store's bucket
    if found != deployment_id:
        raise IdentityMismatch(
            f"bucket {bucket.name!r} under {bucket.scope!r} belongs to deployment {found}, but this store to "
            f"{deployment_id}. Nothing was changed. Check REELKEEPER_BUCKET, _PREFIX, _DATABASE_URL and _STATE_DIR"
        )
    return True


def require_no_inner_owner(bucket: Bucket, deployment_id: str) -> None:
    """Raise IdentityMismatch where one of the first folders of a whole bucket is another store's."""
    for part in () if bucket.prefix else bucket.look().folders().counted:
        with suppress(ObjectMissing, Misconfigured):  # a name that cannot be a prefix is nobody's
            inner = bucket.under(part.name)
            if (found := _owner(inner)) != deployment_id:
                raise IdentityMismatch(
                    f"bucket {bucket.name!r} under {inner.scope!r} belongs to deployment {found}, and "
                    f"{bucket.scope!r} is the whole bucket; this store is {deployment_id}. Nothing was changed. "
                    "Use a prefix beside it, or that deployment's store"
                )


def misplaced(bucket: Bucket) -> str:
    """Name the folders with objects if the prefix has none; "" if it has some, or the keys may not list the bucket."""
    if any(bucket.pages()):
        return ""
    try:
        folders = bucket.look().folders()
    except StorageError:  # the keys may read only the prefix
        return ""
    others = folders._replace(counted=[part for part in folders.counted if part.name != bucket.prefix])
    return nothing_under(bucket.prefix, others, PAGE_KEYS) if others.counted or others.outside.objects else ""


def _owner(bucket: Bucket) -> str | None:
    owner: str | None = json.loads(bucket.read_bytes(bucket.identity_key)).get("deployment")
    return owner


def _require_no_wider_owner(bucket: Bucket, deployment_id: str) -> None:
    for view in bucket.wider():
        try:
            found = _owner(view)
        except StorageError as error:
            if isinstance(error, ObjectMissing) or is_refusal(error.__cause__):  # the keys may read only the prefix
                continue
            raise
        if found != deployment_id:
            raise IdentityMismatch(
                f"bucket {bucket.name!r} under {view.scope!r} belongs to deployment {found}, and {bucket.scope!r} lies "
                f"in that wider prefix; this store is {deployment_id}. Nothing was changed. Use a prefix outside it, "
                "or that deployment's store"
            )


def _check_clocks(store_time: datetime, bucket_time: datetime) -> None:
    here = datetime.now(UTC)
    for whose, there, limit in (
        ("the store's", store_time, MAX_SKEW_FROM_STORE),
        ("the bucket's", bucket_time, MAX_SKEW_FROM_BUCKET),
    ):
        # guard identity.clocks: ages are judged by a wrong clock
        if abs(here - there) > limit:
            raise IntegrityDoubt(
                f"this machine's clock says {here:%Y-%m-%d %H:%M:%S}, {whose} {there:%Y-%m-%d %H:%M:%S}: more than "
                f"{limit.total_seconds():.0f} s apart, so no age can be trusted. Set the clock (NTP) and run again"
            )
