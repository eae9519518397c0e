"""Test the bucket for all behaviour that Reelkeeper relies on, record the outcome, and say what it was."""

from collections.abc import Iterator

from reelkeeper.adapters import contract
from reelkeeper.adapters.contract import CHECKS, Result, Target
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.operations.core.workspace import Workspace, flush_operations, require_no_inner_owner
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import reading, transaction


def require_may_go_live(opened: Workspace, settings: Settings) -> None:
    """Raise what would refuse to claim the bucket, or to write there, before a person agrees to it. Stores nothing."""
    contract.require_write(_contract_target(opened.bucket, settings))
    if not opened.is_ours:
        require_no_inner_owner(opened.bucket, opened.deployment_id)


def try_contract(engine: Engine, bucket: Bucket, settings: Settings, *, run_id: str) -> Iterator[Result]:
    """Run every check in scratch prefixes of the bucket; record results and sent operations after the last one."""
    results = []
    for result in contract.run(_contract_target(bucket, settings)):
        results.append(result)
        yield result
    passed, failed = ([result.check for result in results if result.passed is so] for so in (True, False))
    with transaction(engine, "contract.record") as session:
        deployment.record_contract(session, bucket.endpoint_url, bucket.name, passed, failed, run_id=run_id)
    flush_operations(engine, bucket)


def describe_contract(engine: Engine, endpoint_url: str, name: str) -> tuple[bool, str]:
    """Return whether the bucket has passed the contract, with its time or what is missing."""
    with reading(engine) as session:
        tried = deployment.contract_at(session, endpoint_url, name)
    if tried is None:
        return False, "the contract test has not run on this bucket, so features that depend on it are off"
    test = f"the contract test of {tried.at:%Y-%m-%d %H:%M}"
    if failed := [check for check in CHECKS if check in tried.failed]:
        return False, f"in {test}, {', '.join(failed)} did not pass"
    if new := [check for check in CHECKS if check not in tried.passed]:
        return False, f"{test} passed, but this version of Reelkeeper also checks {', '.join(new)}"
    return True, f"the contract test passed, {len(CHECKS)} checks, {tried.at:%Y-%m-%d %H:%M} UTC"


def _contract_target(bucket: Bucket, settings: Settings) -> Target:
    return Target(bucket, *bucket.credentials, settings.s3_region)
