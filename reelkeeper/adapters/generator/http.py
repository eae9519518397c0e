"""Has a provider make a video, and pays for it once, whatever is lost on the way.

The key is written down before a job is sent, and the provider's name for it right after. Whoever takes up a job that
has a key looks it up: it is never sent twice because an answer was lost. One that the provider does not know is put
aside first, as its request may still be under way; if the provider still does not know it then, it never came, and is
sent under the same key, by which the provider can tell.
"""

import time
from collections.abc import Callable
from pathlib import Path

from reelkeeper.adapters.generator.order import Log, Made, Order
from reelkeeper.adapters.generator.provider import Provider, Standing
from reelkeeper.errors import GenerationCancelled, GenerationFailed, GenerationRefused, GenerationUnknown
from reelkeeper.failpoints import effect
from reelkeeper.model import MediaLimits

_TICK_SECONDS = 1.0  # between two signs of life to the log

ImageUrl = Callable[[str], str | None]  # where the image of a digest can be read for a while; None where there is none


class HttpGenerator:
    """A provider behind the HTTP API that `provider` describes."""

    name = "http"
    outlives_us = True  # what was sent goes on without its worker

    def __init__(
        self,
        provider: Provider,
        *,
        image_url: ImageUrl | None = None,
        poll_seconds: float = 5.0,
        most_bytes: int = MediaLimits().max_size_bytes,
        most_silent_seconds: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._provider, self._image_url, self._most_bytes = provider, image_url, most_bytes
        self._poll_seconds, self._most_silent_seconds, self._sleep = poll_seconds, most_silent_seconds, sleep

    def make(self, order: Order, target: Path, log: Log) -> Made:
        """Have the video made, and store it in `target`.

        Raises GenerationRefused (never), GenerationFailed (not this time), GenerationUnknown (to be looked up later),
        or what `log` raises; a job that is cancelled is told to its provider.
        """
        # guard provider.looked_up: a job that its provider has is sent once more, and paid twice
        job_id = order.provider_job_id or self._found(order) or self._sent(order, log)
        try:
            standing = self._followed(job_id, order, log)
        except GenerationCancelled:
            self._provider.cancel(job_id)
            raise
        if standing.status != "succeeded" and standing.cost_microusd:
            log.paid(standing.cost_microusd)
        if standing.status == "refused":
            raise GenerationRefused(f"the provider refuses it: {standing.error}")
        if standing.status != "succeeded" or not standing.video_url:
            raise GenerationFailed(f"at the provider it is {standing.status}: {standing.error}")
        self._provider.fetch(standing.video_url, target, self._most_bytes)
        return Made(target, standing.cost_microusd)

    def _found(self, order: Order) -> str | None:
        """Look up a job that may have been sent; None if it was certainly not."""
        if order.provider_key is None:
            return None
        standing = self._provider.find(order.provider_key)
        # guard provider.waits_for_doubt: a job whose request is still under way is sent again, and paid twice
        if standing is None and not order.was_parked:
            raise GenerationUnknown("the provider does not know it yet; the request may still be under way")
        return standing.id if standing else None

    def _sent(self, order: Order, log: Log) -> str:
        digest = order.request.get("image_sha256")
        image_url = self._image_url(str(digest)) if digest and self._image_url else None
        key = log.announce()
        # guard provider.slept: a worker that slept sends a job that another has sent meanwhile
        log.progress(0.0)  # a worker that slept meanwhile must not send what another has looked up
        try:
            with effect("provider.submit"):
                job_id = self._provider.submit(key, order.model, dict(order.request), image_url)
        except GenerationUnknown:
            # guard provider.lost_answer: a job whose answer was lost is given up, though it is made and paid for
            if (standing := self._provider.find(key)) is None:
                raise
            job_id = standing.id
        log.sent(job_id)
        return job_id

    def _followed(self, job_id: str, order: Order, log: Log) -> Standing:
        """Ask until the job is over. A provider that is silent for too long leaves it in doubt."""
        heard, progress = time.monotonic(), 0.0
        while True:
            try:
                standing = self._provider.look(job_id)
            except GenerationUnknown:
                if time.monotonic() - heard > self._most_silent_seconds:
                    raise
            else:
                if standing is None:
                    # guard provider.unknown_job: a job that its provider has forgotten for a moment is made twice
                    kind = GenerationFailed if order.was_parked else GenerationUnknown
                    raise kind(f"the provider does not know its job {job_id!r}")
                if standing.is_over:
                    return standing
                heard, progress = time.monotonic(), standing.progress
            self._wait(log, progress)

    def _wait(self, log: Log, progress: float) -> None:
        ends = time.monotonic() + self._poll_seconds
        log.progress(progress)
        while (left := ends - time.monotonic()) > 0:
            self._sleep(min(left, _TICK_SECONDS))
            log.progress(progress)
