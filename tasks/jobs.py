"""Jobs: keep the slots full, and report a run of the queue."""

import time
from collections.abc import Callable

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from reelkeeper.adapters import providers
from reelkeeper.adapters.ffmpeg.intake import sweep_scratch_dirs
from reelkeeper.disk import make_folder
from reelkeeper.model.document import Table
from reelkeeper.model.jobs import GLOBAL_LIMIT
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.jobs import queue, worker
from reelkeeper.operations.jobs.worker import Shift
from reelkeeper.operations.videos import images
from reelkeeper.rules.jobs.attempts import DispatchReport
from reelkeeper.settings import settings
from tasks import show, step

_LIMIT_SECONDS = 15.0  # between two reads of the limit
_ASKED_ONCE = {PREFECT_CLIENT_MAX_RETRIES: 0}  # runs send other requests again for a minute
_SOON = {"timeout": 5.0}
_IMAGE_URL_SECONDS = 86_400  # validity of the URL by which a provider reads an input image

preview = step("preview the queue")(queue.preview)


@task(task_run_name="keep the slots full", cache_policy=NO_CACHE)
def keep_slots_full(workspace: Workspace, shift: Shift, run_id: str) -> DispatchReport:
    """Run jobs until the shift is over. On a signal to stop, hand over the running jobs."""
    scratch = make_folder(settings().scratch)
    sweep_scratch_dirs(scratch)
    generators = providers.connect(settings(), images.source(workspace.bucket, _IMAGE_URL_SECONDS))
    limit = _limit(workspace, shift.slots)
    ends = worker.work(workspace, generators, shift, run_id=run_id, scratch=scratch, limit=limit)
    report = queue.report(workspace.engine, run_id, ends)
    rows = [(name.replace("_", " "), getattr(report, name)) for name in dict.fromkeys(queue.FIELDS.values())]
    rows += [(f"now {name}", getattr(report, name)) for name in ("waiting", "running", "parked", "dead")]
    show("dispatch-jobs-report", report.title, [Table(("jobs", ">"), rows)])
    get_run_logger().info("%s", ", ".join(f"{count:,} {end}" for end, count in ends.items()) or "no job was due")
    return report


def _limit(workspace: Workspace, slots: int) -> Callable[[], int]:
    """Return a function for the limit of jobs at once on all workers: Prefect's, else the last tuned, else `slots`."""
    known, looked_at = None, -_LIMIT_SECONDS

    def limit() -> int:
        nonlocal known, looked_at
        if known is None or time.monotonic() - looked_at >= _LIMIT_SECONDS:
            looked_at = time.monotonic()
            found = _from_prefect(known)
            # guard claims.stopped: jobs go on being begun, and bought, while a person allows none at Prefect
            known = queue.jobs_at_once(workspace.engine) or slots if found is None else found
        return known

    return limit


def _from_prefect(before: int | None) -> int | None:
    """Read Prefect's limit; None if there is none, or if it is disabled. It stays as `before` without an answer."""
    try:
        # guard outages.limit_at_once: each claim waits a minute for a Prefect server that is away, and slots stay empty
        with temporary_settings(_ASKED_ONCE), get_client(sync_client=True, httpx_settings=_SOON) as client:
            found = client.read_global_concurrency_limit_by_name(GLOBAL_LIMIT)
    except ObjectNotFound:
        return None
    except Exception as error:  # noqa: BLE001  an unreachable server must not stop the jobs
        get_run_logger().warning("Prefect's limit %r cannot be read: %s", GLOBAL_LIMIT, type(error).__name__)
        # guard outages.limit_kept: while Prefect does not answer, more jobs run at once than a person has allowed there
        return before
    return found.limit if found.active else None
