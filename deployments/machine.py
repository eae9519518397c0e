"""Look whether this machine may take runs of Prefect's server, and which: before the first, and before each.

A machine without the deployment's store, or with another schema, takes none, and its worker ends. One without ffmpeg, a
working sandbox or room on its scratch disk takes no run that works on videos, until it can. A healthy worker alerts
people to the former through the store, as they themselves have none: what they say waits in a variable at Prefect. One
of release 0.1.0 looks at nothing and says nothing: it is found in the pools that it polls.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from deployments.pools import PAGE, RENAMED
from reelkeeper.adapters.orchestrator import name_at_prefect
from reelkeeper.errors import DiskFull, IdentityMismatch, ReelkeeperError, SchemaError, ToolMissing
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core import machine
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.jobs.queue import may_rest
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import open_store, transaction
from tasks.runs import PREFIX, RECORD, record, recorded

ON_VIDEOS: Final = frozenset({"tier-storage", "transcode-videos", "dispatch-jobs"})  # they need ffmpeg and a disk
EARLIER: Final = "EarlierRelease"  # the code of the alert about a worker of 0.1.0
_REFUSED: Final = f"{PREFIX}unfit_"  # then the machine's name
_DEPLOYED_SECONDS: Final = 3600.0
_log = logging.getLogger(__name__)


class Machine:
    """The machine of this process, for one deployment. `unfit` says why it takes no runs on videos; None: it does."""

    def __init__(self, settings: Settings) -> None:
        self.unfit: ReelkeeperError | None = None
        self.dry_only = frozenset[str]()  # names of flows of which it takes dry runs alone
        self._settings, self._alone, self._is_known, self._is_warned = settings, threading.Lock(), False, False
        self._due = time.monotonic()  # when it looks again what is deployed

    def require(self) -> None:
        """Look before the first run. Raises IdentityMismatch, SchemaError or ToolMissing if this machine cannot work.

        A full disk may have room again, and a server that gives no answer is asked before each run.
        """
        try:
            self.look()
        except httpx.HTTPError as error:
            _log.warning("Prefect's server does not answer, so the record is compared before the first run: %r", error)
            if self._settings.database_url or self._settings.store_file.exists():
                with open_store(self._settings) as engine:
                    self._look_at(engine)
        if isinstance(self.unfit, ToolMissing):
            raise self.unfit

    def look(self) -> None:
        """Look at record, store and machine; alert people to what is news.

        Raises IdentityMismatch or SchemaError if it may take no runs; httpx's errors if the server does not answer.
        """
        with self._alone, get_client(sync_client=True) as client:
            found = recorded(client)
            try:
                self._require_deployment(found.get(RECORD))
                with open_store(self._settings) as engine:
                    self._pass_on(client, engine, found)
                    self._look_at(engine)
                    if time.monotonic() >= self._due:
                        self._due = time.monotonic() + _DEPLOYED_SECONDS
                        note_deployed(client, engine)
            except (IdentityMismatch, SchemaError) as error:
                _leave_word(client, error)
                raise

    def may_rest(self, run_id: str) -> bool:
        """Leave out a scheduled run of dispatch_jobs if it has nothing to do; record it as one that succeeded."""
        with self._alone, open_store(self._settings) as engine:
            is_left_out = may_rest(engine)
            if is_left_out:
                record(engine, "dispatch_jobs", run_id, None, is_dry=False)
        return is_left_out

    def tell_of_earlier(self, worker: str, pool: str) -> None:
        """Alert people to a worker that polls a pool of 0.1.0. Ours are named POOL HOST PID, others by Prefect."""
        ours = re.fullmatch(rf"{pool} (\S+) \d+", worker)
        host = ours[1] if ours else worker
        problem = (
            f"its worker {worker!r} polls the work pool {pool} of release 0.1.0, which hands out nothing any more. "
            f"Stop it, install this release there, and start a worker of the pool {RENAMED[pool]}"
        )
        with self._alone, open_store(self._settings) as engine:
            # guard machines.earlier_told: nobody learns of a machine with an earlier release, which takes nothing
            _tell(engine, host, EARLIER, problem)

    def _require_deployment(self, deployment_id: str | None) -> None:
        if deployment_id is not None:
            machine.require_deployment(self._settings, deployment_id)
        elif not self._is_warned:
            self._is_warned = True
            _log.warning(
                "Prefect's server has no record of its deployment, so a worker without settings would take its runs: "
                "run `reelkeeper bootstrap` once"
            )

    def _look_at(self, engine: Engine) -> None:
        # guard policy.worker: a worker takes flow runs that it cannot do, and each of them fails
        current(engine)
        before, self.unfit = self.unfit, None
        try:
            machine.require_fit(engine, self._settings.scratch)
        except (ToolMissing, DiskFull) as error:
            self.unfit = error
            if before is None:
                _log.warning("takes no runs on videos until it can: %s", error)
                _tell(engine, machine.name(), type(error).__name__, str(error))
        else:
            if before or not self._is_known:
                alerts.tell_fit(engine, machine.name(), run_id="worker")
            self._is_known = True

    def _pass_on(self, client: SyncPrefectClient, engine: Engine, found: Mapping[str, Any]) -> None:
        """Alert people to the machines that could not, and drop their words."""
        for variable in [name for name in found if name.startswith(_REFUSED)]:
            word = found[variable]
            is_over = word["machine"] == machine.name() and not self._is_known  # its own, from before it was mended
            # guard machines.told: nobody learns of a machine that has no store to put an alert into
            if not is_over:
                _tell(engine, word["machine"], word["code"], word["problem"])
            with suppress(ObjectNotFound):  # another worker did
                client.delete_variable_by_name(variable)


def note_deployed(client: SyncPrefectClient, engine: Engine) -> None:
    """Record which of our flows are deployed at this server: the watchdog and `status` await no others."""
    # guard machines.deployed: on a server with many deployments of others, flows of ours fall silent unnoticed
    ours = {"flows": {"name": {"any_": [name_at_prefect(flow) for flow in CADENCES]}}, "limit": PAGE}
    deployments = client.request("POST", "/deployments/filter", json=ours).json()
    if ids := sorted({deployment["flow_id"] for deployment in deployments}):
        body = {"flows": {"id": {"any_": ids}}, "limit": PAGE}
        names = {flow["name"].replace("-", "_") for flow in client.request("POST", "/flows/filter", json=body).json()}
        with transaction(engine, "deployed.note") as session:
            deployment.set_deployed(session, names)


def _tell(engine: Engine, name: str, code: str, problem: str) -> None:
    alerts.tell_unfit(engine, name, code, problem, run_id="worker")


def _leave_word(client: SyncPrefectClient, error: ReelkeeperError) -> None:
    """Leave for the other machines' workers why this one takes no runs."""
    at = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    word = {"machine": machine.name(), "code": type(error).__name__, "problem": str(error), "at": at}
    name = _REFUSED + re.sub("[^a-z0-9]+", "_", machine.name().lower())
    try:
        client.create_variable(VariableCreate(name=name, value=word, tags=["reelkeeper"]))
    except ObjectAlreadyExists:
        client.update_variable(VariableUpdate(name=name, value=word))
