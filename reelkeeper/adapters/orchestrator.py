"""Start and list runs through Prefect's HTTP API, so that the library does not import Prefect.

GET  /admin/version                          checks that it answers and accepts our credentials; its time
GET  /deployments/name/FLOW/DEPLOYMENT       its id, and whether it or its schedules are paused
POST /flow_runs/filter, /flows/filter        the runs that ended badly or wait to begin, and the names of their flows
POST /flow_runs/ID/set_state                 marks a run as crashed
GET  /csrf-token?client=NAME                 if the server requires one; 422 if it does not
POST /deployments/ID/create_flow_run         idempotency_key: repeating one returns the same run
"""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from reelkeeper.adapters.http_clients import is_loopback
from reelkeeper.errors import Misconfigured, OrchestratorError, Unavailable
from reelkeeper.model.alerts import EndedRun
from reelkeeper.settings import Settings

TIMEOUT_SECONDS: Final = 10.0
OPENING_ATTEMPTS: Final = 3  # with a wait of 1 and 2 s between them: 33 s at most until a command gives up
NEVER_BEGUN: Final = "A worker accepted it, and never started it"
_SETTING: Final = "PREFECT_API_URL is its address"


class Orchestrator:
    """One Prefect server. `auth` is USER:PASSWORD, as its `PREFECT_API_AUTH_STRING`."""

    def __init__(self, url: str, auth: str | None = None) -> None:
        self._url, self._client_id = url.rstrip("/"), uuid4().hex
        self._auth = httpx.BasicAuth(*auth.partition(":")[::2]) if auth else None

    def start(self, flow: str, deployment: str, parameters: Mapping[str, Any], *, key: str) -> str:
        """Start a run of a deployment with these `parameters` overriding its own; return the run's id.

        Raises OrchestratorError, which never contains an address.
        """
        with self._open() as client:
            found = _deployed(client, flow, deployment)
            body = {"parameters": dict(parameters), "idempotency_key": key}
            path = f"/deployments/{found.get('id')}/create_flow_run"
            run = _call(client, "POST", path, body, self._csrf(client), what="a new run")
        return str(run.get("id"))

    def is_paused(self, flow: str, deployment: str) -> bool:
        """Check whether somebody has paused a deployment, or all of its schedules: then Prefect starts no runs of it.

        Raises OrchestratorError, which never contains an address.
        """
        with self._open() as client:
            found = _deployed(client, flow, deployment)
        schedules = found.get("schedules") or []
        # guard claims.paused_schedule: jobs go on being bought although a person has paused their flow's schedule
        is_off = len(schedules) > 0 and not any(schedule.get("active") for schedule in schedules)
        return bool(found.get("paused")) or is_off

    def ended_badly(self, flows: Iterable[str], since: datetime, limit: int = 100) -> list[EndedRun]:
        """List the runs of deployments of these flows that failed or crashed after `since`, the latest first.

        It asks for `limit` at a time. Raises OrchestratorError, which never contains an address.
        """
        wanted = {
            "state": {"type": {"any_": ["FAILED", "CRASHED"]}},
            "end_time": {"after_": since.isoformat()},
            "deployment_id": {"is_null_": False},  # others show their error to a person
        }
        body = {"flow_runs": wanted, "flows": _named(flows), "sort": "END_TIME_DESC", "limit": limit}
        with self._open() as client:
            headers = self._csrf(client)
            what, runs = "runs that ended badly", list[dict[str, Any]]()
            # guard outages.all_ended: a daily run is not told, behind a hundred of flows that run every 5 minutes
            while page := _list(client, "/flow_runs/filter", body | {"offset": len(runs)}, headers, what=what):
                runs += page
            ids = {"id": {"any_": sorted({str(run["flow_id"]) for run in runs})}}
            found = _list(client, "/flows/filter", {"flows": ids}, headers, what="their flows") if runs else []
        names = {flow["id"]: str(flow["name"]) for flow in found}
        return [
            EndedRun(
                run["state"]["type"] == "CRASHED",
                names[run["flow_id"]],
                str(run["id"]),
                str(run["name"]),
                run["state"].get("message") or "",
                datetime.fromisoformat(run["end_time"]),
            )
            for run in runs
            if run["flow_id"] in names
        ]

    def end_never_begun(self, flows: Iterable[str], after: timedelta) -> int:
        """Mark runs of deployments of these flows as crashed that a worker accepted so long ago and never began.

        Returns how many. The times are the server's. Raises OrchestratorError, which never contains an address.
        """
        wanted = {"state": {"type": {"any_": ["PENDING"]}}, "deployment_id": {"is_null_": False}}
        crashed = {"state": {"type": "CRASHED", "message": NEVER_BEGUN}}
        body, ended = {"flow_runs": wanted, "flows": _named(flows)}, 0
        with self._open() as client:
            headers = self._csrf(client)
            runs = _list(client, "/flow_runs/filter", body, headers, what="runs that begin")
            # guard outages.its_clock: where the server's clock is behind ours, runs are ended as soon as they begin
            before = _now(client) - after if runs else None
            for run in runs:
                # guard outages.never_begun: a run that is about to begin is ended
                if before and datetime.fromisoformat(run["state"]["timestamp"]) < before:
                    what = f"the state of run {run['name']}"
                    status, answer = _asked(client, "POST", f"/flow_runs/{run['id']}/set_state", crashed, headers, what)
                    if not isinstance(answer, dict):
                        raise OrchestratorError(f"Prefect answered {status} to POST of {what}")
                    ended += answer.get("status") == "ACCEPT"
        return ended

    def _open(self) -> httpx.Client:
        direct = is_loopback(self._url)
        return httpx.Client(base_url=self._url, auth=self._auth, timeout=TIMEOUT_SECONDS, trust_env=not direct)

    def _csrf(self, client: httpx.Client) -> dict[str, str]:
        try:
            answer = client.get("/csrf-token", params={"client": self._client_id})
            token = answer.json().get("token") if answer.is_success else None
        except (httpx.HTTPError, ValueError, AttributeError):
            token = None  # the next request shows what is wrong
        return {"Prefect-Csrf-Token": str(token), "Prefect-Csrf-Client": self._client_id} if token else {}


def name_at_prefect(flow: str) -> str:
    """Return the name that Prefect gives to a flow: "sync-catalog" for "sync_catalog"."""
    return flow.replace("_", "-")


def _now(client: httpx.Client) -> datetime:
    try:
        answer = client.get("/admin/version")
        return parsedate_to_datetime(answer.raise_for_status().headers["date"])
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError) as error:
        raise OrchestratorError(f"Prefect does not say what time it has: {type(error).__name__}") from None


def _named(flows: Iterable[str]) -> dict[str, Any]:
    # guard outages.others: on a server that others use as well, their runs are ended, and reported as ours
    return {"name": {"any_": [name_at_prefect(flow) for flow in flows]}}


def require_answer(url: str, auth: str | None = None, key: str | None = None) -> None:
    """Check that Prefect's API answers. Raises Unavailable, or Misconfigured if it refuses our credentials.

    `auth` is USER:PASSWORD, `key` a bearer token; neither is ever shown.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    basic = httpx.BasicAuth(*auth.partition(":")[::2]) if auth else None
    for attempt in range(1, OPENING_ATTEMPTS + 1):
        try:
            answer = httpx.get(
                f"{url.rstrip('/')}/admin/version",
                auth=basic,
                headers=headers,
                timeout=TIMEOUT_SECONDS,
                trust_env=not is_loopback(url),
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = unanswered(url, error)
        else:
            if answer.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise Misconfigured(
                    f"Prefect's API at {_place(url)} refuses our credentials ({answer.status_code}): check "
                    "PREFECT_API_AUTH_STRING (USER:PASSWORD) or PREFECT_API_KEY"
                )
            if answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                return  # also 404, from a server without this route
            fault = f"Prefect's API at {_place(url)} answers {answer.status_code}"
            problem = Unavailable(f"{fault}: check its log and its database. {_SETTING}")
        if attempt < OPENING_ATTEMPTS:
            time.sleep(attempt)
    raise problem


def unanswered(url: str, error: Exception) -> Unavailable:
    """Return an error that says why Prefect's API gave no answer, at which address, and which setting has it."""
    message = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        cause = "no answer in time: a firewall, a wrong port, or an overloaded server"
    elif "CERTIFICATE" in message.upper() or "SSL" in message.upper():
        cause = "the TLS handshake failed: check http or https, and PREFECT_API_SSL_CERT_FILE"
    elif any(word in message for word in ("Name or service", "name resolution", "No address", "nodename")):
        cause = "no address is known for that name"
    elif "refused" in message:
        cause = "nothing listens there: check that its server runs (prefect server start)"
    else:
        cause = "no answer"
    return Unavailable(f"Prefect's API at {_place(url)}: {cause}. {_SETTING}. It said: {message[:200]}")


def _place(url: str) -> str:
    at = urlsplit(url)
    return f"{at.hostname}, port {at.port or {'http': 80}.get(at.scheme, 443)}"


def connect(settings: Settings) -> Orchestrator | None:
    """Connect to the configured server; None if there is none."""
    if settings.prefect_api_url is None:
        return None
    auth = settings.prefect_api_auth
    return Orchestrator(settings.prefect_api_url, auth.get_secret_value() if auth else None)


def _deployed(client: httpx.Client, flow: str, deployment: str) -> dict[str, Any]:
    name = f"{name_at_prefect(flow)}/{deployment}"
    return _call(client, "GET", f"/deployments/name/{name}", what=f"deployment {name}")


def _call(
    client: httpx.Client,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    what: str,
) -> dict[str, Any]:
    status, document = _asked(client, method, path, body, headers, what)
    if not isinstance(document, dict) or not document.get("id"):
        raise OrchestratorError(f"Prefect answered {status} to {method} of {what}")
    return document


def _list(
    client: httpx.Client, path: str, body: Mapping[str, Any], headers: Mapping[str, str], *, what: str
) -> list[dict[str, Any]]:
    status, document = _asked(client, "POST", path, body, headers, what)
    if not isinstance(document, list):
        raise OrchestratorError(f"Prefect answered {status} to a question for {what}")
    return document


def _asked(
    client: httpx.Client,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None,
    what: str,
) -> tuple[int, object]:
    try:
        answer = client.request(method, path, json=body, headers=headers)
        return answer.status_code, answer.json() if answer.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise OrchestratorError(f"Prefect gave no answer to {method} of {what}: {type(error).__name__}") from None
