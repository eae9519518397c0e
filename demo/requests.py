"""The demo's part on jobs: users request videos over HTTP, and the queue has a vendor generate them.

The API listens on a free port of this machine while a step needs it. Clients, jobs, videos, credits and the limit are
real; only the users' first credits are granted by the demo, and the vendor is simulated by `vendor`.
"""

import os
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import httpx
import sqlalchemy as sa

from demo import check, vendor
from reelkeeper.cli import reconciliation_view
from reelkeeper.cli.screen import dollars, say, size, table
from reelkeeper.client import Client, RequestRefused
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import RefusedFor
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import policies, tokens
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.rules.billing.catalogue import Unit
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.health.performance import by_group, figures
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.health import performance
from reelkeeper.store.tables import jobs

_SLOTS: Final = 2  # jobs at once, on a machine of two cores
_EXPLAINED: Final = 2  # jobs whose place in the queue is explained
_AGAIN: Final = 100  # first number of a user's later keys
_OWN_NANOUSD: Final = 30_000_000  # of a clip on a machine of one's own
_PATIENCE_SECONDS: Final = 20.0
_WIDTH: Final = 100  # of a line, in characters
_SMALL: Final = {"model": "sketch", "width": 480, "height": 270, "duration_seconds": 2.0, "fps": 24}
_CREDITS_MICROUSD: Final = {
    "ana": 100_500,
    "ben": 1_000_000,
    "chloe": 1_000_000,
    "dan": 1_000_000,
}  # ana's are for six jobs
_TIERS: Final = ("pro", "premium", "free", "")  # "" is all of them
_CITY: Final = {"prompt": "City at night", "shared": True}  # two users may have one video of it
_HUGE: Final = {"prompt": "A fox, huge", "width": 4096, "height": 4096, "duration_seconds": 120.0, "fps": 60}


def _takes(what: str, count: int) -> list[dict[str, Any]]:
    """Return requests for videos of one size, so that the users' jobs differ in little but the tier."""
    return [{"prompt": f"{what}, take {take}"} for take in range(1, count + 1)]


_BURST: Final = {  # the users send at the same time, each user one request after the other
    "ana": [*_takes("A fox", 7), _HUGE],
    "ben": [*_takes("A jet", 3), *_takes("A jet", 1), _CITY],
    "chloe": [_CITY, *_takes("A bay", 3)],
    "dan": _takes("A cat", 1),
}


class Answer(NamedTuple):
    """A user's request and the API's answer: a job, or the reason of the refusal."""

    user_id: str
    request: Mapping[str, Any]
    said: Mapping[str, Any]
    refusal: RequestRefused | None = None

    @property
    def kind(self) -> str:
        """Return queued, joined, cached or refused."""
        return "refused" if self.refusal else str(self.said["status"])


@dataclass(slots=True)
class RequestLog:
    """State shared by the steps: when the users began, and the answers they got."""

    began: datetime | None = None
    answers: list[Answer] = field(default_factory=list)

    def jobs(self) -> list[str]:
        """Return the ids of the accepted jobs, each once."""
        return list(dict.fromkeys(str(answer.said["job_id"]) for answer in self.answers if answer.kind != "refused"))


def burst(workspace: Workspace, request_log: RequestLog) -> None:
    """Send the requests of all users at once, and show the answers."""
    _sell(workspace)
    with transaction(workspace.engine, "demo.credits") as session:
        request_log.began = now(session)
        for user, amount in _CREDITS_MICROUSD.items():
            ledger.grant(session, user, amount, f"demo/{user}", run_id="demo", reason="for the demo")
    with _client(workspace) as client, ThreadPoolExecutor(len(_BURST)) as pool:
        began = time.monotonic()
        asked = pool.map(lambda user: [_ask(client, user, n, entry) for n, entry in enumerate(_BURST[user])], _BURST)
        request_log.answers = [answer for answers in asked for answer in answers]
        took = time.monotonic() - began
        repeated = _ask(client, "ben", 0, _BURST["ben"][0])
        users = {user: client.user(user) for user in _BURST}
    say(f"{len(request_log.answers)} requests of {len(_BURST)} users at once, all answered in {took:.2f} s:")
    rows = []
    for user, told in users.items():
        kinds = Counter(answer.kind for answer in request_log.answers if answer.user_id == user)
        counts = (kinds["queued"], kinds["joined"], kinds["refused"])
        money = dollars(told["held_microusd"]), dollars(told["available_microusd"])
        rows.append((user, told["tier"] or "unknown", *counts, size(told["reserved_bytes"]), *money))
    table(("user", "tier", ">queued", ">joined", ">refused", ">bytes reserved", ">credits held", ">left"), rows)
    say("A request for a video that is already queued joins that job. Refused requests, with their message:")
    refused = [(answer.user_id, answer.refusal) for answer in request_log.answers if answer.refusal]
    table(("user", ">HTTP", "why"), [(user, why.status, why.detail) for user, why in refused])
    first = next(answer for answer in request_log.answers if answer.user_id == "ben")
    check.require(repeated.said["job_id"] == first.said["job_id"], "the same key again gave another job")
    say("ben's client repeated a request under its first key, as after a lost answer: same job, credits held once.")


def make(workspace: Workspace, request_log: RequestLog) -> None:
    """Run the waiting jobs, check each result, and show the waiting times."""
    from flows.dispatch_jobs import dispatch_jobs  # noqa: PLC0415  Prefect reads the demo's environment, set before

    say("The dry run shows which jobs come first, and why:")
    told = (line.partition(": ") for line in dispatch_jobs().next_jobs[:_EXPLAINED])
    table(("!job", "reason of its place"), [(job_id[:8], why) for job_id, _, why in told])
    began = time.monotonic()
    with vendor.serving(settings().scratch / "vendor") as seller, _generator(seller):
        report = dispatch_jobs(dry_run=False, until_idle=True, slots=_SLOTS)
        took = time.monotonic() - began
        _paid_once(workspace, seller, report.succeeded)
    say(f"The {report.succeeded} videos took {took:.0f} s, {_SLOTS} at once, all of one size. Seconds by tier:")
    with reading(workspace.engine) as session:
        groups = by_group(performance.ended(session, request_log.began or now(session), now(session)))
    rows = []
    for tier in _TIERS:
        seen = figures(groups.get((tier, ""), []))
        names = ("wait_mean", "wait_p50", "wait_p95", "processing_mean")
        rows.append(
            (tier or "all", seen["made"], seen["joined"], *(_seconds(seen[f"{name}_seconds"]) for name in names))
        )
    table(("tier", ">made", ">joined", ">mean wait", ">median wait", ">p95 wait", ">processing time"), rows)
    frames = check.every_job(workspace, request_log.jobs())
    say(f"Each was read back from the bucket: size and length are as requested, and all {frames} frames decode.")
    say("Users who joined another user's job got the video for free, and no credits are held any more.")


def reroute(workspace: Workspace, request_log: RequestLog) -> None:
    """Sell the model by two vendors, of which the cheaper one locks our account in between."""
    from flows.dispatch_jobs import dispatch_jobs  # noqa: PLC0415  as above

    _sell(workspace, _OWN_NANOUSD)
    asked = [str(wanted["prompt"]) for wanted in _takes("A kite", 3)]
    with vendor.serving(settings().scratch / "second") as seller, _generator(seller), _client(workspace) as client:
        for prompts in (asked[:1], asked[1:]):
            for prompt in prompts:
                answer = _ask(client, "chloe", len(request_log.answers) + _AGAIN, {"prompt": prompt})
                request_log.answers.append(answer)
            dispatch_jobs(dry_run=False, until_idle=True, slots=_SLOTS)
            seller.is_locked = True
    ids = [answer.said["job_id"] for answer in request_log.answers[-len(asked) :]]
    with reading(workspace.engine) as session:
        ended = session.execute(sa.select(jobs.c.id, jobs.c.lane, jobs.c.state).where(jobs.c.id.in_(ids))).all()
    lanes = {row.id: row.lane for row in ended if row.state == JobState.SUCCEEDED}
    made_by = [lanes.get(job_id) for job_id in ids]
    check.require(made_by == ["fal", "local", "local"], f"these jobs succeeded: {lanes}")
    say("The model is now made by two: the vendor, for a cent, and a machine of your own, for three. After the first")
    say("job the vendor locks the account, as its balance is used up. No job fails: the others go to your machine.")
    costs = [vendor.CLIP_NANOUSD if name == "fal" else _OWN_NANOUSD for name in made_by]
    rows = [
        (prompt, name, dollars(cost // 1_000), dollars((_OWN_NANOUSD - cost) // 1_000))
        for prompt, name, cost in zip(asked, made_by, costs, strict=True)
    ]
    table(("video", "made by", ">cost", ">saved by the offer"), rows)


def _sell(workspace: Workspace, own_nanousd: int = 0) -> None:
    """Put the model that the users request into the price book, with its vendor's cost, and that of a second one."""

    def price(nanousd: int) -> dict[str, Any]:
        rate = {"usd": Decimal(nanousd).scaleb(-9)}
        return {"unit": Unit.CLIP, "rates": [rate], "source": "demo/vendor.py", "read_on": date(2026, 11, 26)}

    of_vendor = {"vendor_model": vendor.MODEL, "price": price(vendor.CLIP_NANOUSD)}
    entry = {"model": _SMALL["model"], "provider": "fal", **of_vendor}
    if own_nanousd:
        entry["offers"] = [{"provider": "local", "price": price(own_nanousd)}]
    with transaction(workspace.engine, "demo.prices") as session:
        before = policies.in_force(session)
        wanted = before.policies.overridden(book=PriceBook.model_validate({"models": [entry]}))
        policies.put_in_force(session, wanted, after=before.version, author="demo", reason="what the demo sells")


@contextmanager
def _generator(seller: vendor.Vendor) -> Iterator[None]:
    """Let this process use the demo's vendor as its provider."""
    named = {"URL": seller.url, "TOKEN": vendor.KEY}
    told = {f"REELKEEPER_FAL_{name}": value for name, value in named.items()}
    told["REELKEEPER_GENERATOR"] = "local"  # ffmpeg makes videos, too, for models that name it
    told["REELKEEPER_ALLOW_PRIVATE_ADDRESSES"] = "true"  # it is on this machine
    os.environ.update(told)
    settings.cache_clear()
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]
        settings.cache_clear()


def _paid_once(workspace: Workspace, seller: vendor.Vendor, made: int) -> None:
    """Compare the vendor's requests and bill with ours, and show what became of the request whose answer was lost."""
    (lost,) = [entry for entry in seller.book if entry.was_lost]
    with reading(workspace.engine) as session:
        is_it = jobs.c.provider_job_id == lost.path
        job = session.execute(sa.select(jobs.c.id, jobs.c.state).where(is_it)).one()
    sent = Counter(str(entry.input["seed"]) for entry in seller.book)
    check.require(
        (job.state, len(seller.book), max(sent.values())) == ("succeeded", made, 1),
        f"job {job.id} is {job.state}, {len(seller.book)} requests were sent for {made} videos",
    )
    say("The vendor on this machine speaks fal's format. ffmpeg makes its clips, and each request costs a cent,")
    say(f"even a repeated one. Its answer to request {lost.id}, of job {job.id[:8]}, was lost on purpose.")
    say(f"The job was not sent again: the vendor's list had its seed {lost.input['seed']}, which is derived from the")
    say("job's key, so that the request was found there and awaited.")
    say(f"The vendor received {len(seller.book)} requests for {made} videos, each paid once. Its bill and ours:")
    today = datetime.now(UTC).date()
    reconciliation_view.show_provider("fal", today.replace(day=1), today, as_json=False)


def again(workspace: Workspace, request_log: RequestLog) -> None:
    """Request the same videos again, get them from the cache, and fetch one as a browser would."""
    wanted = {str(answer.request): answer for answer in request_log.answers if not answer.refusal}.values()
    with _client(workspace) as client:
        began = time.monotonic()
        answers = [_ask(client, answer.user_id, _AGAIN + n, answer.request) for n, answer in enumerate(wanted)]
        took = time.monotonic() - began
        charged = sum(answer.said["charged_microusd"] for answer in answers if answer.kind == "cached")
        hits = sum(answer.kind == "cached" for answer in answers)
        check.require((hits, charged) == (len(answers), 0), f"{hits} of {len(answers)} cached, {charged} charged")
        first = str(answers[0].said["video_id"])
        got = httpx.get(client.video_url(first), timeout=_PATIENCE_SECONDS, trust_env=False)
        check.require_bytes(workspace, first, got.raise_for_status().content)
        users = {user: client.user(user) for user in _BURST}
    say(f"The same {len(answers)} videos were requested under new keys: {hits} came from the cache, in {took:.2f} s")
    say("in total, at no charge. One was fetched as a browser does: the API redirects to a presigned URL of the")
    say(f"bucket, and the {size(len(got.content))} received are those recorded. What each user paid:")
    money = ("spent_microusd", "held_microusd", "available_microusd")
    rows = [(user, *(dollars(told[name]) for name in money), size(told["used_bytes"])) for user, told in users.items()]
    table(("user", ">spent", ">held", ">left", ">stored"), rows)


def tune(workspace: Workspace) -> None:
    """Tune the limit once, and check that Prefect has the new one."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415  as above

    from flows.tune_concurrency import tune_concurrency  # noqa: PLC0415  as above
    from reelkeeper.model.jobs import GLOBAL_LIMIT  # noqa: PLC0415  used here alone
    from reelkeeper.store.jobs.slots import jobs_at_once  # noqa: PLC0415  the same

    say(f"The first limit here is {_SLOTS}, by `--param concurrency.first_limit={_SLOTS}`; the default is 8.")
    report = tune_concurrency(ConcurrencyPolicy(first_limit=_SLOTS), dry_run=False)
    for line in textwrap.wrap(report.explained, _WIDTH):
        say(line)
    say("(A job of an unknown model is estimated at 120 s; the demo's vendor takes far less.)")
    with get_client(sync_client=True) as client:
        prefects = client.read_global_concurrency_limit_by_name(GLOBAL_LIMIT).limit
    with reading(workspace.engine) as session:
        ours = jobs_at_once(session)
    check.require(prefects == ours == report.limit, f"limit {report.limit}, Prefect's {prefects}, kept {ours}")
    say(f"Prefect's global concurrency limit {GLOBAL_LIMIT!r} is {prefects}: dispatch_jobs obeys it in every worker.")


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _ask(client: Client, user: str, number: int, wanted: Mapping[str, Any]) -> Answer:
    try:
        return Answer(user, wanted, client.ask(user, {**_SMALL, **wanted}, key=f"{user}-{number}"))
    except RequestRefused as refused:
        if refused.kind.rpartition(":")[2] not in set(RefusedFor):
            raise  # not an answer to this user, but a failure of the demo
        return Answer(user, wanted, {}, refused)


@contextmanager
def _client(workspace: Workspace) -> Iterator[Client]:
    """Serve the API on loopback, and return a client with a token."""
    import uvicorn  # noqa: PLC0415  it and FastAPI take most of a second, which no other page needs

    from reelkeeper.api.app import create_app  # noqa: PLC0415  the same
    from reelkeeper.api.app_state import AppState  # noqa: PLC0415  the same

    app = create_app(AppState(workspace, settings().scratch))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False)
    listening, server = config.bind_socket(), uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="demo-api", daemon=True)
    line, text = tokens.create(workspace.engine, "demo", [Scope.JOBS, Scope.VIDEOS, Scope.USERS], author="demo")
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with Client(address, text, timeout_seconds=_PATIENCE_SECONDS) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(_PATIENCE_SECONDS)
        listening.close()
        tokens.revoke(workspace.engine, line.id, author="demo")
