"""Set up a Prefect server for Reelkeeper: work pools, the limit of jobs at once, automations. Again and again.

What is there stays as people and `tune_concurrency` have set it. What prefect.yaml says comes after this, by
`prefect --no-prompt deploy --all`.
"""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from deployments import automations
from reelkeeper.errors import Misconfigured
from reelkeeper.model.access import Scope
from reelkeeper.model.jobs import GLOBAL_LIMIT
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.policies import current
from reelkeeper.redaction import hide
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.rules.policies import DEFAULTS

POOLS: Final = {"default": 8, "transcode": 16}  # runs at once in all workers of the pool together
BLOCK: Final = "reelkeeper-runs"
HOOK: Final = "/hooks/runs"
OLD_NAME: Final = "scheduled"  # of every deployment, in 0.1.0


def bootstrap(*, engine: Engine | None = None, api_url: str | None = None, force: bool = False) -> Iterator[str]:
    """Make what is missing, and say what was done, a line each. `force` sets limits back to their first values.

    `api_url` says where Prefect's server reaches our API, which then hears of runs that fail, crash or are late; the
    token for it is kept in `engine`'s store and in a block whose fields Prefect encrypts.
    """
    with get_client(sync_client=True) as client:
        for name, limit in POOLS.items():
            yield _pool(client, name, limit, force=force)
        policies = current(engine).policies if engine else DEFAULTS  # no store is made for one figure
        yield _limit(client, policies.concurrency.first_limit, force=force)
        for flow, cadence in CADENCES.items():
            yield from _renamed(client, flow.replace("_", "-"), cadence.name)
        wanted = list(automations.inner())
        if api_url and engine:
            webhook, said = _webhook(client, engine, _checked(api_url))
            yield said
            wanted += automations.telling(webhook)
        else:
            yield (
                "Failed, crashed and late runs are told to nobody: say where the API is, by REELKEEPER_API_URL or "
                "--api-url. The watchdog tells of flows that stay silent all the same."
            )
        changed = [automation.name for automation in wanted if automations.put(client, automation)]
        yield f"Automations: {len(wanted)}, {len(changed)} of them made or brought up to date."


def _pool(client: SyncPrefectClient, name: str, limit: int, *, force: bool) -> str:
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
        )
        return f"Work pool {name}: made, at most {limit} runs at once."
    if force and found.concurrency_limit != limit:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
        return f"Work pool {name}: set back to {limit} runs at once, from {found.concurrency_limit}."
    return f"Work pool {name}: there, of type {found.type}, at most {found.concurrency_limit} runs at once."


def _limit(client: SyncPrefectClient, first: int, *, force: bool) -> str:
    found = next(
        (limit for limit in client.read_global_concurrency_limits(limit=200) if limit.name == GLOBAL_LIMIT), None
    )
    if found is None:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GLOBAL_LIMIT, limit=first))
        return f"Jobs at once: {first}, until tune_concurrency moves it."
    if force and found.limit != first:
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, first)
        return f"Jobs at once: set back to {first}, from {found.limit}."
    return f"Jobs at once: {found.limit}, as it was."


def _renamed(client: SyncPrefectClient, flow: str, name: str) -> Iterator[str]:
    """Remove the deployment that was named `scheduled` before: its schedule would run beside that of the new one.

    One that a person has paused runs nothing, and says that its work was stopped: it is left until that was seen.
    """
    old = find_deployment(client, f"{flow}/{OLD_NAME}")
    if old is None:
        return
    if old.paused:
        yield (
            f"Deployment {flow}/{OLD_NAME}: paused, and left. If {flow}/{name} is not to run either, write "
            "`paused: true` beside it in prefect.yaml before you deploy that."
        )
        return
    delete_deployment(client, old)
    yield f"Deployment {flow}/{OLD_NAME}: removed; in prefect.yaml it is {flow}/{name}."


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """Find a deployment by FLOW/NAME; None where there is none."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def delete_deployment(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Delete a deployment, with what it has scheduled; its past runs stay."""
    client.request("DELETE", "/deployments/{id}", path_params={"id": deployment.id})


def _checked(api_url: str) -> str:
    parts = urlsplit(api_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise Misconfigured(f"{api_url!r} is no address of an API: http://HOST:PORT, without user and password")
    return api_url.rstrip("/") + HOOK


def _webhook(client: SyncPrefectClient, engine: Engine, url: str) -> tuple[UUID, str]:
    """Keep a block that calls `url` with a token of ours; a token that still works is used on."""
    text, before = _kept(client)
    caller = tokens.authenticate(engine, text)
    usable = caller is not None and caller.scopes == {Scope.RUNS}
    if not usable:
        _, text = tokens.create(engine, "Prefect's automations", [Scope.RUNS], author="bootstrap")
        hide([text])
    if not usable or before != url:
        headers = {"Authorization": f"Bearer {text}", "Content-Type": "application/json"}
        block = Webhook(method="POST", url=SecretStr(url), headers=SecretDict(headers), allow_private_urls=True)
        block.save(BLOCK, overwrite=True)
    kept = client.read_block_document_by_name(BLOCK, "webhook", include_secrets=False)
    return kept.id, f"Runs that go wrong: told to {url}."


def _kept(client: SyncPrefectClient) -> tuple[str, str]:
    """Give the token and the address in the block; "" twice where there is none."""
    try:
        found = client.read_block_document_by_name(BLOCK, "webhook", include_secrets=True)
    except ObjectNotFound:
        return "", ""
    shown = str(found.data.get("headers", {}).get("Authorization", ""))
    text = shown.partition(" ")[2]
    hide([text])
    return text, str(found.data.get("url", ""))
