"""Prefect's API, as far as a run is started by it: over HTTP, so that the library knows nothing of Prefect.

GET  /deployments/name/FLOW/DEPLOYMENT       its id
GET  /csrf-token?client=NAME                 where the server wants one; 422 where it does not
POST /deployments/ID/create_flow_run         idempotency_key: the same one again gives the same run
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

import httpx

from reelkeeper.errors import OrchestratorError
from reelkeeper.settings import Settings

TIMEOUT_SECONDS: Final = 10.0


class Orchestrator:
    """One Prefect server. `auth` is USER:PASSWORD, as its `PREFECT_API_AUTH_STRING`."""

    def __init__(self, url: str, auth: str | None = None) -> None:
        self._url, self._client_id = url.rstrip("/"), uuid4().hex
        self._auth = httpx.BasicAuth(*auth.partition(":")[::2]) if auth else None

    def start(self, flow: str, deployment: str, parameters: Mapping[str, Any], *, key: str) -> str:
        """Start a run of a deployment with these `parameters` over its own; returns the run's id.

        Raises OrchestratorError, which names no address.
        """
        with httpx.Client(
            base_url=self._url, auth=self._auth, timeout=TIMEOUT_SECONDS, follow_redirects=False
        ) as client:
            found = _call(
                client, "GET", f"/deployments/name/{flow}/{deployment}", what=f"deployment {flow}/{deployment}"
            )
            body = {"parameters": dict(parameters), "idempotency_key": key}
            path = f"/deployments/{found.get('id')}/create_flow_run"
            run = _call(client, "POST", path, body, self._csrf(client), what="a new run")
        return str(run.get("id"))

    def _csrf(self, client: httpx.Client) -> dict[str, str]:
        try:
            answer = client.get("/csrf-token", params={"client": self._client_id})
            token = answer.json().get("token") if answer.is_success else None
        except (httpx.HTTPError, ValueError, AttributeError):
            token = None  # what comes next says what is wrong
        return {"Prefect-Csrf-Token": str(token), "Prefect-Csrf-Client": self._client_id} if token else {}


def connect(settings: Settings) -> Orchestrator | None:
    """Give the configured server's; None where there is none."""
    if settings.prefect_api_url is None:
        return None
    auth = settings.prefect_api_auth
    return Orchestrator(settings.prefect_api_url, auth.get_secret_value() if auth else None)


def _call(
    client: httpx.Client,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    what: str,
) -> dict[str, Any]:
    try:
        answer = client.request(method, path, json=body, headers=headers)
        said = answer.json() if answer.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise OrchestratorError(f"Prefect gave no answer to {method} of {what}: {type(error).__name__}") from None
    if not isinstance(said, dict) or not said.get("id"):
        raise OrchestratorError(f"Prefect answered {answer.status_code} to {method} of {what}")
    return said
