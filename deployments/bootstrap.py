"""Set up a Prefect server for Reelkeeper: work pools, the limit of concurrent jobs, automations. Safe to repeat.

Existing limits stay as people and `tune_concurrency` have set them. Afterwards, `reelkeeper deploy` deploys
prefect.yaml.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, VariableCreate, VariableUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from deployments import automations, pools
from reelkeeper.adapters.orchestrator import name_at_prefect
from reelkeeper.errors import IdentityMismatch, Misconfigured
from reelkeeper.model.jobs import GLOBAL_LIMIT
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.policies import current
from reelkeeper.redaction import hide
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.core import deployment
from tasks.runs import RECORD, recorded, require_deployment

BLOCK: Final = "reelkeeper-runs"
HOOK: Final = "/hooks/runs"
OLD_NAME: Final = "scheduled"  # of every deployment, in 0.1.0


def bootstrap(
    *, engine: Engine | None = None, api_url: str | None = None, force: bool = False, claim: bool = False
) -> Iterator[str]:
    """Create what is missing, and yield a line for each step. `force` resets limits to their initial values.

    The server is recorded as that of `engine`'s deployment, whose machines alone take its runs. Raises IdentityMismatch
    if it is another's, unless it may `claim` it: deployments have the same names, so one server has one of them.

    At `api_url`, Prefect's server reaches Reelkeeper's API, to report runs that fail, crash or are late; the token for
    it is kept in `engine`'s store and in a block whose fields Prefect encrypts.
    """
    with get_client(sync_client=True) as client:
        if engine:
            yield _recorded(client, deployment.owner(engine) or "", claim=claim)
        for name in pools.POOLS:
            yield pools.create(client, name, force=force)
        policies = current(engine).policies if engine else DEFAULTS  # no store is created for one figure
        yield _limit(client, policies.concurrency.first_limit, force=force)
        for flow, cadence in CADENCES.items():
            yield from _renamed(client, name_at_prefect(flow), cadence.name)
        yield from pools.empty(client)
        wanted = list(automations.inner())
        if api_url and engine:
            webhook, message = _webhook(client, engine, _checked(api_url))
            yield message
            wanted += automations.telling(webhook)
        else:
            yield (
                "Failed, crashed and late runs are not reported: set the URL of the API with REELKEEPER_API_URL. "
                "The watchdog still reports flows that stay silent."
            )
        changed = [automation.name for automation in wanted if automations.put(client, automation)]
        yield f"Automations: {len(wanted)}, {len(changed)} of them created or updated."


def require_record(*, claim: bool) -> None:
    """Raise IdentityMismatch, before a store is made, if the server is another deployment's and not claimed."""
    if not claim:
        require_deployment()


def _recorded(client: SyncPrefectClient, deployment_id: str, *, claim: bool) -> str:
    """Record whose server it is; of two deployments that record it at once, the first wins."""
    with suppress(ObjectAlreadyExists):
        client.create_variable(VariableCreate(name=RECORD, value=deployment_id, tags=["reelkeeper"]))
        return f"Deployment {deployment_id}: recorded; machines with another store take no runs of this server."
    found = recorded(client).get(RECORD)
    if found == deployment_id:
        return f"Deployment {deployment_id}: recorded before."
    # guard machines.one_server: a second deployment takes over the runs of the first, in its own store
    if not claim:
        raise IdentityMismatch(
            f"this Prefect server is that of deployment {found}, and this store is {deployment_id}; nothing was "
            "changed. Check REELKEEPER_DATABASE_URL, or use a Prefect server for each deployment. If that one is no "
            "more: reelkeeper bootstrap --claim"
        )
    client.update_variable(VariableUpdate(name=RECORD, value=deployment_id))
    return f"Deployment {deployment_id}: recorded, in place of {found}."


def _limit(client: SyncPrefectClient, first: int, *, force: bool) -> str:
    try:
        found = client.read_global_concurrency_limit_by_name(GLOBAL_LIMIT)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GLOBAL_LIMIT, limit=first))
        return f"Jobs at once: {first}, until tune_concurrency changes it."
    if force and found.limit != first:
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, first)
        return f"Jobs at once: reset to {first}, from {found.limit}."
    return f"Jobs at once: {found.limit}, unchanged."


def _renamed(client: SyncPrefectClient, flow: str, name: str) -> Iterator[str]:
    """Remove a deployment under its old name `scheduled`: its schedule would run in addition to the new one's.

    One that a person has paused runs nothing; it is kept, as a sign that its work was stopped on purpose.
    """
    old = find_deployment(client, f"{flow}/{OLD_NAME}")
    if old is None:
        return
    if old.paused:
        yield (
            f"Deployment {flow}/{OLD_NAME}: paused, so it was kept. `reelkeeper deploy` replaces it with "
            f"{flow}/{name}, paused as well."
        )
        return
    client.delete_deployment(old.id)
    yield f"Deployment {flow}/{OLD_NAME}: removed; prefect.yaml now names it {flow}/{name}."


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """Find a deployment by FLOW/NAME; None if there is none."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _checked(api_url: str) -> str:
    parts = urlsplit(api_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise Misconfigured(f"{api_url!r} is not the URL of an API: give http://HOST:PORT, without user and password")
    return api_url.rstrip("/") + HOOK


def _webhook(client: SyncPrefectClient, engine: Engine, url: str) -> tuple[UUID, str]:
    """Create or update the block that calls `url` with a token of Reelkeeper; a token that still works is kept."""
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
    return kept.id, f"Failed, crashed and late runs: reported to {url}."


def _kept(client: SyncPrefectClient) -> tuple[str, str]:
    """Return the token and the URL in the block; two empty strings without a block."""
    try:
        found = client.read_block_document_by_name(BLOCK, "webhook", include_secrets=True)
    except ObjectNotFound:
        return "", ""
    shown = str(found.data.get("headers", {}).get("Authorization", ""))
    text = shown.partition(" ")[2]
    hide([text])
    return text, str(found.data.get("url", ""))
