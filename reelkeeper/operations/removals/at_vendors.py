"""Have vendors delete what they got and made for erased users and for videos that were taken down.

    asked for (commit, with the takedown or the erasure) --> due: its job is over, no legal hold --> asked (one request)
        ^-- no answer, or a refusal: again after a pause; for 30 days, then it is given up, with an alert --'  |
                                                             answered (commit, with the audit record) <--------'

Our own bytes never wait for it. A process that dies in between asks again: a deletion may be repeated.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain
from typing import Final, NamedTuple

from reelkeeper.adapters import providers
from reelkeeper.errors import GenerationLost, GenerationUnknown
from reelkeeper.failpoints import effect
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.jobs import VendorErasure
from reelkeeper.operations.alerts import alerts
from reelkeeper.rules.core.wording import many, problem_of
from reelkeeper.settings import Settings
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import audit, deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.removals import at_vendors
from reelkeeper.store.removals.at_vendors import Late, ToErase

_ERASED: Final = "vendor_erase"  # events of the audit record
_NOT_ERASED: Final = "vendor_erase_given_up"
_SECONDS: Final = 20.0  # for each call of `catch_up`, about
_MAX_FAILURES: Final = 3  # of a vendor in a row, after which this call asks it no more
_LATE: Final = timedelta(days=1)
_GIVEN_UP: Final = timedelta(days=30)  # a month, in which a person's request must be granted
_BY_HAND: Final = "delete it there by hand"
_SAID: Final = {
    VendorErasure.WAITING: "it was asked for, and is repeated until the vendor answers",
    VendorErasure.DELETED: "the vendor says that it has deleted the request and the files",
    VendorErasure.PARTLY: f"the vendor has deleted the request; it has no call for the files: {_BY_HAND}",
    VendorErasure.ABSENT: "the vendor says that it does not have it",
    VendorErasure.KEPT: "the vendor has no call that deletes it, and may have a copy",
    VendorErasure.UNNAMED: "its answer was lost, so it is not known whether the vendor has it, or under which name",
    VendorErasure.GIVEN_UP: f"the vendor has not deleted it within 30 days: {_BY_HAND}",
}
_log = logging.getLogger(__name__)


class AtVendor(NamedTuple):
    """A vendor's copy of a request and of what it made. `at`: when it answered, or else when it was asked for."""

    provider: str
    job: str | None  # the vendor's name of it
    state: str  # as `VendorErasure` has it
    at: datetime
    why: str


@safe_to_repeat
def waits(engine: Engine) -> bool:
    """Check whether any vendor's answer is still awaited."""
    with reading(engine) as session:
        return at_vendors.waits(session)


def catch_up(engine: Engine, settings: Settings, run_id: str, *, seconds: float = _SECONDS) -> None:
    """Ask the vendors that are set up here for what is due, for about `seconds`. A failure is tried again later."""
    if not waits(engine):
        return
    ends, failures = time.monotonic() + seconds, Counter[str]()
    while time.monotonic() < ends:
        # guard vendor_erase.apart: a vendor that is down holds up what others are asked for
        able = [name for name in settings.vendors if failures[name] < _MAX_FAILURES]
        with transaction(engine, "vendor_erase.take") as session:
            stopped = deployment.stopped(session, locked=True)
            if stopped and stopped.is_moved:
                return
            # guard vendor_erase.freeze: vendors go on deleting during a freeze
            item = at_vendors.take_next(session, able, only_takedowns=stopped is not None)
        if item is None:
            break
        state = _asked(settings, item)
        failures[item.provider] = 0 if state else failures[item.provider] + 1
        _record(engine, item, state, run_id)
    with reading(engine) as session:
        late = at_vendors.late(session, _LATE.total_seconds())
    # guard vendor_erase.late_told: a vendor keeps what it was asked to delete, and nobody knows
    alerts.observe(engine, [_late(item) for item in late], rules=["erasure_late"], run_id=run_id)


def _asked(settings: Settings, item: ToErase) -> VendorErasure | None:
    """Ask for one deletion; None where it must be asked for again."""
    if item.vendor_id is None:
        return VendorErasure.UNNAMED
    try:
        vendor = providers.provider(item.provider, settings)
        if not item.is_delivered:
            with suppress(GenerationLost):  # it has deleted it
                standing = vendor.look(item.vendor_id)
                # guard vendor_erase.goes_on: a job that we gave up goes on there, and its video stays after all
                if standing is not None and not standing.is_over:
                    raise GenerationUnknown("the job goes on at the provider")  # noqa: TRY301  tried again below
        with effect("vendor_erase.ask"):
            return vendor.erase(item.vendor_id)
    except Exception as error:  # noqa: BLE001  whatever it is, the others are asked for
        problem = problem_of(error)
        _log.warning("%s was not deleted at %s: %s", item.vendor_id, item.provider, problem)
        return None


def _record(engine: Engine, item: ToErase, state: VendorErasure | None, run_id: str) -> None:
    with transaction(engine, "vendor_erase.answer") as session:
        deployment.lock(session)
        at = now(session)
        # guard vendor_erase.ends: a vendor that never answers is asked for ever, and no person learns of it
        if state is None and at - item.asked_at > _GIVEN_UP:
            state = VendorErasure.GIVEN_UP
        if state is None or (named := at_vendors.answered(session, item.key, state)) is None:
            return
        if state is VendorErasure.GIVEN_UP:
            alerts.observe_within(session, [_given_up(item, f"{at:%Y-%m-%d}")], run_id=run_id)
        detail = {"provider": item.provider, "job": item.vendor_id, "state": state}
        event = _NOT_ERASED if state is VendorErasure.GIVEN_UP else _ERASED
        append(session, [Event(event, run_id, named[0], None, named[1], detail)])


def of_videos(session: Session, video_ids: Sequence[str]) -> tuple[AtVendor, ...]:
    """List what became of videos at vendors, also after their jobs were pruned: the audit record has the answers."""
    return tuple(item for video_id in video_ids for item in _of_video(session, video_id))


def _of_video(session: Session, video_id: str) -> list[AtVendor]:
    kept = at_vendors.of_video(session, video_id)
    found = [AtVendor(*item, _SAID[VendorErasure(item.state)]) for item in kept]
    known = {(item.provider, item.job) for item in found}
    for recorded in chain(*(audit.events(session, event=event, video_id=video_id) for event in (_ERASED, _NOT_ERASED))):
        detail = recorded.event.detail
        provider, job, state = str(detail["provider"]), detail["job"], VendorErasure(detail["state"])
        if (provider, job) not in known:
            known.add((provider, job))
            found.append(AtVendor(provider, job, state, recorded.at, _SAID[state]))
    return found


def of_user(engine: Engine, user_id: str) -> tuple[AtVendor, ...]:
    """List what became of a user's requests at vendors, under the pseudonym once they are erased."""
    with reading(engine) as session:
        kept = at_vendors.of_user(session, user_id)
    return tuple(AtVendor(*item, _SAID[VendorErasure(item.state)]) for item in kept)


def _late(item: Late) -> Finding:
    return Finding(
        rule="erasure_late",
        scope=f"provider:{item.provider}",
        severity=Severity.WARNING,
        title=f"{item.provider} has not deleted {many(item.jobs, 'job')} that it was asked to delete",
        text=f"The first was asked for on {item.since:%Y-%m-%d %H:%M} UTC. Each is repeated for 30 days.",
        suggestion=f"See the log of deliver_alerts. Its worker needs the key of {item.provider}; fal wants an admin's",
    )


def _given_up(item: ToErase, day: str) -> Finding:
    return Finding(
        rule="erasure_given_up",
        scope=f"provider:{item.provider}",
        period=day,
        severity=Severity.WARNING,
        title=f"{item.provider} has not deleted what it was asked to delete for 30 days",
        text=f"It may still have {item.vendor_id}, of an erased user or of a video that was taken down. It is asked no "
        "more. Others of the day: reelkeeper audit",
        suggestion=f"Ask {item.provider} to delete it, or {_BY_HAND}. A repeated takedown asks again",
    )
