"""Try a vendor on the operator's own account: one clip, the cheapest of the catalogue, for at most some dollars.

A clip is noted before it is sent, and counts as spent from then on; of a trial that is cut off, the next one follows
the clip, and sends no other. What a trial does not show stays as it is: no result has anything sent again.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple
from uuid import uuid4

from reelkeeper.adapters import ffmpeg, providers
from reelkeeper.adapters.providers.contract import Order, Standing, Status, Submission
from reelkeeper.adapters.providers.transport import cost_microusd
from reelkeeper.errors import GenerationError, GenerationUnknown, MediaError, Misconfigured, Refused
from reelkeeper.failpoints import effect
from reelkeeper.model import MediaLimits
from reelkeeper.model.jobs import TRIAL_CALLED, TRIAL_KEYS
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.health import FAIL, OK, WARN, Finding
from reelkeeper.rules.billing.vendor_word import VendorWord
from reelkeeper.rules.core.limit_scopes import of_job
from reelkeeper.rules.core.wording import dollars
from reelkeeper.rules.jobs.cheapest import CheapClip, cheapest
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import controls
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction

_SENT: Final = "vendor_trial:"  # begins the row of `controls` with the clip of a vendor that is not known to be over
_FOLLOWED_SECONDS: Final = 86_400.0  # after its last news, such a clip is given up
_CONSERVATIVE: Final = "not shown: nothing relies on it"


class Sent(NamedTuple):
    """A clip that was sent, or is about to be: our key, the time, and the vendor's name for it."""

    key: str
    at: str
    job_id: str | None = None


class Trial(NamedTuple):
    """A trial that a person may agree to: of `clip`, and of another one that is cancelled, if both cost no more."""

    provider: str
    clip: CheapClip
    spend_microusd: int = 0
    cancels: bool = False
    sent: Sent | None = None  # by an earlier trial that was cut off: nothing is sent


class Patience(NamedTuple):
    """Bound how long a trial waits for the vendor, in seconds."""

    poll: float = 5.0
    end: float = 1_200.0
    webhook: float = 60.0


def plan(engine: Engine, settings: Settings, name: str, spend_microusd: int) -> Trial:
    """Choose the clip. Raises Misconfigured for a vendor that is not set up, Refused where it may cost too much."""
    if name not in settings.vendors:
        raise Misconfigured(f"no key of {name} is set: docs/providers.md says which setting it needs")
    with reading(engine) as session:
        before = controls.fresh(session, f"{_SENT}{name}", _FOLLOWED_SECONDS)
        book = in_force(session).policies.book
    # guard vendor_trial.once: a trial that is cut off and begun again buys its clip twice
    if before:
        return Trial(name, CheapClip(**before["clip"]), sent=Sent(**before["sent"]))
    clip = cheapest(book, name, is_default=settings.provider == name)
    # guard vendor_trial.priced: a trial buys a clip whose price nobody knows
    if clip is None:
        raise Refused(f"the catalogue, book.models, has no model of {name} with the vendor's price: nothing was sent")
    # guard vendor_trial.spend: a trial costs more than its person has agreed to
    if clip.cost_microusd > spend_microusd:
        raise Refused(
            f"the cheapest clip of {name}, {clip.vendor_model}, costs {dollars(clip.cost_microusd)}, more than "
            f"{dollars(spend_microusd)}: nothing was sent"
        )
    cancels = clip.cost_microusd * 2 <= spend_microusd and providers.provider(name, settings).guarantee.cancels
    return Trial(name, clip, spend_microusd, cancels)


def carry_out(
    engine: Engine, settings: Settings, trial: Trial, *, author: str, patience: Patience | None = None
) -> Iterator[Finding]:
    """Carry out a trial, step by step; what each has shown is recorded in the audit. Raises Frozen before it sends."""
    shown = dict[str, str]()
    for finding in _Run(engine, settings, trial, author, patience or Patience()).steps():
        shown[finding.part.partition(": ")[2]] = finding.state
        yield finding
    with transaction(engine, "vendor_trial.end") as session:
        append(session, [Event("vendor_trial_end", author, detail={"provider": trial.provider, **shown})])


class _Run:
    def __init__(self, engine: Engine, settings: Settings, trial: Trial, author: str, patience: Patience) -> None:
        self._engine, self._settings, self._trial, self._author = engine, settings, trial, author
        self._patience, self._provider = patience, providers.provider(trial.provider, settings)
        self._sent, self._left_microusd = trial.sent or _unsent(), trial.spend_microusd

    def steps(self) -> Iterator[Finding]:
        """Carry the trial out, step by step."""
        try:
            if not self._trial.sent:
                self._submit()
            told = f"{self._sent.key}, of an earlier trial, is followed: nothing is sent" if self._trial.sent else ""
            yield self._said("submit", OK, told or f"one request, and {self._sent.job_id} is its name there")
        except GenerationError as error:
            yield self._said("submit", FAIL, str(error))
            if not isinstance(error, GenerationUnknown):
                return
        yield self._look_up("look-up")
        if self._sent.job_id is None:
            if not self._provider.guarantee.ways:
                self._note(0, None)
            yield self._said("end", FAIL, "it has no name to ask by: it may be made, and charged, and counts as spent")
            return
        try:
            standing = self._wait(self._sent.job_id, self._patience.end)
        except GenerationError as error:
            yield self._said("end", FAIL, f"{error}: it may be made, and charged, and counts as spent")
            return
        assert standing  # noqa: S101  it may not be gone
        yield self._said("end", OK if standing.status is Status.SUCCEEDED else FAIL, f"{standing.status}")
        yield self._look_up("look-up at its end")
        yield self._fetch(standing)
        yield self._webhook()
        yield self._cost(standing)
        yield self._delete(standing.id)
        yield self._cancel()

    def _order(self) -> Order:
        clip, (key, at, _) = self._trial.clip, self._sent
        began, usd = datetime.fromisoformat(at), None if clip.gpu_second_usd is None else Decimal(clip.gpu_second_usd)
        order = Order(key, clip.vendor_model, clip.request, key, started_at=began, is_priced=True, gpu_second_usd=usd)
        return order._replace(deadline=began + timedelta(seconds=self._patience.end + 60))

    def _submit(self) -> None:
        cost = self._trial.clip.cost_microusd
        # guard vendor_trial.counted: what a trial costs counts in no budget
        self._note(cost, self._sent)
        try:
            with effect("vendor_trial.submit"):
                job_id = self._provider.submit(Submission(self._sent.key, self._order()))
        except GenerationUnknown:
            raise
        except GenerationError:
            self._note(-cost, None)
            raise
        self._name(job_id)

    def _name(self, job_id: str) -> None:
        self._sent = self._sent._replace(job_id=job_id)
        self._note(0, self._sent)

    def _note(self, microusd: int, sent: Sent | None) -> None:
        """Note the clip that goes on, None once it is over, and count what it costs; a negative sum takes it back."""
        name, model = self._trial.provider, self._trial.clip.model
        with transaction(self._engine, "vendor_trial.note") as session:
            if sent and not sent.job_id:
                require_permission(session)
            state = {"clip": self._trial.clip._asdict(), "sent": sent._asdict()} if sent else {}
            controls.write(session, f"{_SENT}{name}", state)
            if microusd:
                limits.spend(session, of_job(name, model, None, ""), model, name, microusd, now(session))
            detail = {"provider": name, "model": model, **self._sent._asdict(), "microusd": microusd}
            append(session, [Event("vendor_trial", self._author, detail=detail)])

    def _look_up(self, part: str) -> Finding:
        if not self._provider.guarantee.ways:
            return self._said(part, WARN, "it offers none by our key: a lost answer stays in doubt")
        try:
            found = self._provider.find(self._order())
        except GenerationUnknown as error:
            return self._said(part, WARN, f"{error}; {_CONSERVATIVE}")
        if found is None:
            return self._said(part, WARN, f"it does not list the job; {_CONSERVATIVE}")
        if self._sent.job_id is None:
            self._name(found.id)
        if found.id != self._sent.job_id:
            return self._said(part, FAIL, f"it finds {found.id}, another job")
        return self._said(part, OK, f"found by our key: {found.id}")

    def _wait(self, job_id: str, seconds: float, *, may_be_gone: bool = False) -> Standing | None:
        """Look until the job is over. Raises GenerationUnknown for one that is not in time; it is cancelled."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with suppress(GenerationUnknown):
                standing = self._provider.look(job_id)
                if (standing is None and may_be_gone) or (standing and standing.is_over):
                    return standing
            time.sleep(self._patience.poll)
        self._provider.cancel(job_id)
        raise GenerationUnknown("its end was not seen, so it was cancelled; the next trial asks for it again")

    def _cost(self, standing: Standing) -> Finding:
        """Count what the vendor says that a clip cost in place of the book's price, if it can be believed."""
        stated, expected = standing.cost_microusd, self._trial.clip.cost_microusd
        if standing.units is not None and (usd := self._provider.unit_usd(self._order())) is not None:
            stated = cost_microusd(usd * standing.units)
        told = expected if stated is None else stated
        is_made = standing.status is Status.SUCCEEDED
        is_believed = VendorWord(self._trial.provider, self._trial.clip.model, expected, told, is_made).is_believed
        self._note(told - expected if is_believed else 0, None)
        self._left_microusd -= max(told, expected)
        if stated is None:
            return self._said("cost", WARN, f"it does not say; the book's {dollars(expected)} counts")
        state = OK if is_believed and abs(told - expected) * 10 <= expected else WARN
        return self._said("cost", state, f"{dollars(told)} by its word, {dollars(expected)} by the book")

    def _fetch(self, standing: Standing) -> Finding:
        with TemporaryDirectory(prefix="reelkeeper-trial-") as folder:
            target = Path(folder) / "clip.mp4"
            try:
                if not standing.video_url:
                    return self._said("fetch", FAIL, "it names no address of the video")
                self._provider.fetch(standing.video_url, target, MediaLimits().max_size_bytes)
                media = ffmpeg.inspect(target)
            except (GenerationError, MediaError) as error:
                return self._said("fetch", FAIL, str(error))
            return self._said("fetch", OK, f"{target.stat().st_size:,} bytes, {media.duration_seconds:.1f} s")

    def _webhook(self) -> Finding:
        if self._trial.provider not in providers.VENDORS:
            return self._said("webhook", WARN, "its calls have no key of ours, if it makes any: not tried")
        if not self._settings.access(self._trial.provider).webhook_url:
            return self._said("webhook", WARN, "no public address is set: REELKEEPER_HOOKS_URL and its secret")
        ends = time.monotonic() + self._patience.webhook
        while True:
            with reading(self._engine) as session:
                called = controls.remembered(session, [TRIAL_CALLED]).get(TRIAL_CALLED, {})
            if called.get("key") == self._sent.key:
                return self._said("webhook", OK, "its call has reached `reelkeeper api`, with our key")
            if time.monotonic() > ends:
                return self._said("webhook", WARN, f"no call with our key reached `reelkeeper api`; {_CONSERVATIVE}")
            time.sleep(min(self._patience.poll, 1.0))

    def _delete(self, job_id: str) -> Finding:
        try:
            state = self._provider.erase(job_id)
        except GenerationError as error:
            return self._said("delete", WARN, f"{error}; takedowns and erasures ask again for 30 days")
        return self._said("delete", OK if state in ("deleted", "partly", "absent") else WARN, f"{state}")

    def _cancel(self) -> Finding:
        """Send a second clip, and cancel it at once, where it is agreed to and the first was not dearer than listed."""
        # guard vendor_trial.second: of a vendor that takes more than it lists, a trial buys more than was agreed to
        if not self._trial.cancels or self._left_microusd < self._trial.clip.cost_microusd:
            return self._said("cancel", WARN, f"no second clip was agreed to, or it has no such call; {_CONSERVATIVE}")
        self._sent = _unsent()
        try:
            self._submit()
            job_id = str(self._sent.job_id)
            self._provider.cancel(job_id)
            standing = self._wait(job_id, self._patience.webhook, may_be_gone=True)
        except GenerationError as error:
            return self._said("cancel", WARN, f"{error}; {_CONSERVATIVE}")
        if standing is None:
            self._note(0, None)
            return self._said("cancel", WARN, "it is gone; whether it was stopped, and its cost, is not shown")
        state = OK if standing.status is Status.CANCELLED else WARN
        return self._said("cancel", state, f"{standing.status}: {self._cost(standing).found}")

    def _said(self, part: str, state: str, found: str) -> Finding:
        return Finding(f"{self._trial.provider}: {part}", state, found)


def _unsent() -> Sent:
    return Sent(f"{TRIAL_KEYS}{uuid4().hex[:16]}", datetime.now(UTC).isoformat())
