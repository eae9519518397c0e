"""Have a provider make a video, and pay for it only once, whichever answers are lost.

The key is recorded before a job is sent, and the provider's id right after. A job that has a key is looked up, and
never sent again because an answer was lost. A job that cannot be found stays parked. Only a provider that looks jobs up
by our keys can prove that a job never arrived: if it says so twice, some time apart, the job is sent again under the
same key.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from reelkeeper.adapters.providers.contract import (
    NO_IMAGES,
    ImageSource,
    Log,
    Made,
    Order,
    Provider,
    Standing,
    Status,
    Submission,
)
from reelkeeper.adapters.providers.transport import cost_microusd
from reelkeeper.errors import (
    ContentRefused,
    GenerationAbsent,
    GenerationCancelled,
    GenerationError,
    GenerationFailed,
    GenerationInterrupted,
    GenerationLost,
    GenerationRefused,
    GenerationStopped,
    GenerationUnknown,
    ResultUnreadable,
)
from reelkeeper.failpoints import effect
from reelkeeper.model import MediaLimits
from reelkeeper.model.alerts import one_line

_TICK_SECONDS = 1.0  # between two progress reports to the log
_FETCHES = 3  # attempts to fetch a video, each after another look at its job, before it counts as lost


class RemoteGenerator:
    """Makes videos through any provider."""

    outlives_us = True

    def __init__(
        self,
        provider: Provider,
        *,
        model: str | None = None,
        images: ImageSource = NO_IMAGES,
        poll_seconds: float = 5.0,
        most_bytes: int = MediaLimits().max_size_bytes,
        most_silent_seconds: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self._model = provider.name, model
        self._provider, self._images, self._most_bytes = provider, images, most_bytes
        self._poll_seconds, self._most_silent_seconds, self._sleep = poll_seconds, most_silent_seconds, sleep

    def make(self, order: Order, target: Path, log: Log) -> Made:
        """Have the video made, and store it in `target`.

        Raises GenerationRefused (will never work), GenerationFailed (may work next time), GenerationUnknown (must be
        looked up later), ResultUnreadable (must be fetched again), GenerationLost (made, but no longer available), or
        what `log` raises. A cancelled job is also cancelled at the provider, and so is one that is not over at its
        deadline.
        """
        # guard provider.priced_model: a job is sent to a model other than the quoted one
        order = order if order.is_priced else order._replace(model=self._model or order.model)
        # guard provider.looked_up: a job that its provider has is sent again, and paid twice
        job_id = order.provider_job_id or self._found(order, log) or self._sent(order, target.parent, log)
        try:
            standing = self._followed(job_id, order, log)
            log.over()
            self._require_made(standing, order, log)
            return self._fetched(standing, order, target, log)
        except GenerationCancelled:
            self._provider.cancel(job_id)
            raise

    def _found(self, order: Order, log: Log) -> str | None:
        """Look up a job that may have been sent; None if it was certainly not."""
        if order.provider_key is None:
            return None
        guarantee = self._provider.guarantee
        # guard provider.no_way: a job in doubt is sent again to a provider without a lookup, and paid twice
        if not guarantee.ways:
            log.progress(0.0)  # ends a cancelled job, whose credits would be held for a day: nothing will find it
            raise GenerationUnknown("the provider may have it, but cannot look it up: it lists no jobs by our key")
        standing = self._provider.find(order)
        if standing is not None:
            log.sent(standing.id)
            return standing.id
        # guard provider.no_proof: a job that its provider does not list yet is sent again, and paid twice
        # guard provider.waits_for_doubt: a job whose request is still under way is sent again, and paid twice
        if not (guarantee.absence_is_proof and order.was_parked):
            # guard provider.cancelled_absent: the credits of a cancelled job are held for a day as no list has it
            if order.was_parked:
                log.progress(0.0)
            raise GenerationAbsent("the provider does not know it yet; the request may still be under way")
        return None

    def _sent(self, order: Order, folder: Path, log: Log) -> str:
        image_url, image = self._image(order, folder)
        key = log.announce()
        # guard provider.slept: a worker that was suspended sends a job that another has sent
        log.progress(0.0)  # a worker that was suspended must not send a job that another has looked up
        try:
            with effect("provider.submit"):
                job_id = self._provider.submit(Submission(key, order, image_url, image))
        except GenerationUnknown:
            # guard provider.lost_answer: a job whose answer was lost is given up, although it is made and paid
            if not self._provider.guarantee.ways or not (
                standing := self._provider.find(order._replace(provider_key=key))
            ):
                raise
            job_id = standing.id
        log.sent(job_id)
        return job_id

    def _image(self, order: Order, folder: Path) -> tuple[str | None, bytes | None]:
        """Return the input image in the form that the provider accepts. Raises GenerationRefused if there is none."""
        digest = order.request.get("image_sha256")
        if not digest:
            return None, None
        url, image, file = None, None, folder / "image"
        if not self._provider.takes_image_bytes:
            url = self._images.url(str(digest))
        elif self._images.fetch(str(digest), file):
            image = file.read_bytes()
        # guard provider.image: a video is made, paid and charged without the image that its user asked for
        if not url and image is None:
            raise GenerationRefused(f"no input image {str(digest)[:64]!r}")
        return url, image

    def _followed(self, job_id: str, order: Order, log: Log) -> Standing:
        """Poll until the job has ended. If the provider does not answer for too long, the job stays in doubt."""
        last_answer_at, progress = time.monotonic(), 0.0
        while True:
            problem: GenerationError | None = None
            goes_on = False
            try:
                standing = self._provider.look(job_id)
            except GenerationUnknown as unknown:
                is_silent = time.monotonic() - last_answer_at > self._most_silent_seconds
                problem = unknown if is_silent else None
            else:
                if standing is None:
                    problem = self._forgotten(job_id, order)
                elif standing.is_over:
                    return self._priced(standing, order)
                else:
                    last_answer_at, progress, goes_on = time.monotonic(), standing.progress, True
            # guard provider.doubted_once: a paid clip that nobody followed for a day is cancelled as one look fails
            is_in_doubt = isinstance(problem, GenerationUnknown) and order.was_parked
            # guard provider.deadline: a job that its provider never ends holds a slot and its user's credits for ever
            if _is_late(order) and (goes_on or is_in_doubt):
                return self._cancelled(job_id, order, log)
            if problem:
                raise problem
            self._wait(log, progress)

    def _priced(self, standing: Standing, order: Order) -> Standing:
        """Add the cost of a job that its provider bills by units."""
        usd = None if standing.units is None else self._provider.unit_usd(order)
        return standing if usd is None else replace(standing, cost_microusd=cost_microusd(usd * (standing.units or 0)))

    def _cancelled(self, job_id: str, order: Order, log: Log) -> Standing:
        """Cancel a job that is late, unless it is made just then. Raises GenerationStopped."""
        # guard provider.stopped: a job that we give up goes on at its provider, which charges for it
        self._provider.cancel(job_id)
        standing = self._provider.look(job_id)
        if standing is None or standing.status is not Status.SUCCEEDED:
            if standing:
                _note_paid(self._priced(standing, order), log)
            raise _stopped(order)
        return self._priced(standing, order)

    def _forgotten(self, job_id: str, order: Order) -> GenerationError:
        """Return the error for a job that its provider does not know.

        Where jobs are billed, it may be a fault that passes: the job is looked up until its deadline.
        """
        # guard provider.forgotten: a paid job is given up, or made again, as its provider does not find it for a while
        # guard provider.unknown_job: a job that its provider does not find for a moment is made twice
        if self._provider.guarantee.bills or not order.was_parked:
            return GenerationUnknown(f"the provider does not know its job {job_id!r}")
        return GenerationFailed(f"the provider no longer knows its job {job_id!r}")

    @staticmethod
    def _require_made(standing: Standing, order: Order, log: Log) -> None:
        if standing.status == Status.SUCCEEDED:
            return
        _note_paid(standing, log)
        if standing.status == Status.MODERATED:
            raise ContentRefused(f"the provider refuses its content: {standing.error}")
        if standing.status == Status.REFUSED:
            raise GenerationRefused(f"the provider refuses it: {standing.error}")
        problem = f"the provider reports it as {standing.status}: {standing.error}"
        # guard provider.interrupted: what a vendor may charge for a job that was cancelled there counts in no budget
        if standing.status == Status.CANCELLED:  # after the deadline by us, and the answer was lost
            raise _stopped(order) if _is_late(order) else GenerationInterrupted(problem)
        raise GenerationFailed(problem)

    def _fetched(self, standing: Standing, order: Order, target: Path, log: Log) -> Made:
        """Store the video. If its URL has expired, read the job again for a new one.

        Raises GenerationLost, or ResultUnreadable where the job was billed, and what it made may yet be fetched.
        """
        bills = self._provider.guarantee.bills
        for left in reversed(range(_FETCHES)):
            try:
                self._fetch_video(standing.video_url, target)
                break
            except (GenerationLost, ResultUnreadable) as problem:
                if not left or isinstance(problem, ResultUnreadable):
                    _note_paid(standing, log)
                    # guard provider.not_lost_yet: a paid video is given up since its file is missing for a moment
                    if bills or isinstance(problem, ResultUnreadable):
                        raise ResultUnreadable(f"{problem}: {_address(standing)}") from problem
                    raise
                self._wait(log, 1.0)
                standing = self._followed(standing.id, order, log)
        return Made(target, standing.cost_microusd, _address(standing) if bills else None)

    def _fetch_video(self, video_url: str | None, target: Path) -> None:
        if not video_url:
            raise GenerationLost("the provider made the video, but no longer has it")
        self._provider.fetch(video_url, target, self._most_bytes)

    def _wait(self, log: Log, progress: float) -> None:
        ends = time.monotonic() + self._poll_seconds
        log.progress(progress)
        while (left := ends - time.monotonic()) > 0:
            self._sleep(min(left, _TICK_SECONDS))
            log.progress(progress)


def _is_late(order: Order) -> bool:
    return order.deadline is not None and datetime.now(UTC) > order.deadline


def _stopped(order: Order) -> GenerationStopped:
    return GenerationStopped(f"it was not over at {order.deadline:%Y-%m-%d %H:%M} UTC, and was cancelled there")


def _note_paid(standing: Standing, log: Log) -> None:
    """Record the provider's word about what an attempt without a video cost, which may be nothing."""
    if standing.cost_microusd is not None or standing.is_charged:
        log.paid(standing.cost_microusd)


def _address(standing: Standing) -> str:
    """Return where the video is, for a person to read."""
    # guard provider.unsigned_address: a reader of an error or an alert can fetch the video by its signed address
    address = (standing.video_url or "").partition("?")[0]
    # guard provider.stored_address: a paid video is given up, as the store refuses an error with half a surrogate
    return one_line(address)
