"""Try the contract of the bucket, remember what came of it, and say whether it has passed.

What rests on behaviour of R2 that nobody here has seen is off until `contract_passed`: ask that before relying on it.
"""

from collections.abc import Iterator

from reelkeeper.adapters import contract
from reelkeeper.adapters.contract import CHECKS, Result, Target
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import contracts
from reelkeeper.store.core.engine import reading, transaction


def try_contract(engine: Engine, bucket: Bucket, settings: Settings, *, run_id: str) -> Iterator[Result]:
    """Run every check in scratch prefixes of the bucket's, and record what came of it once the last one is done."""
    results = []
    for result in contract.run(_target(bucket, settings)):
        results.append(result)
        yield result
    passed = [result.check for result in results if result.passed]
    failed = [result.check for result in results if not result.passed]
    with transaction(engine, "contract.record") as session:
        contracts.record(session, bucket.endpoint_url, bucket.name, passed, failed, run_id=run_id)


def contract_passed(engine: Engine, bucket: Bucket) -> bool:
    """Whether this bucket has passed every check that there is, at the last try."""
    with reading(engine) as session:
        return contracts.has_passed(session, bucket.endpoint_url, bucket.name, CHECKS)


def describe_contract(engine: Engine, bucket: Bucket) -> tuple[bool, str]:
    """Say whether the contract has passed, and when, or what is missing."""
    with reading(engine) as session:
        tried = contracts.last(session)
    if tried is None or (tried.endpoint_url, tried.bucket) != (bucket.endpoint_url, bucket.name):
        return False, "the contract was never tried on this bucket: what rests on it is off"
    if missing := [name for name in CHECKS if name not in tried.passed]:
        return False, f"of the contract, tried {tried.at:%Y-%m-%d %H:%M}, {', '.join(missing)} did not pass"
    return True, f"the contract has passed, {len(CHECKS)} checks, {tried.at:%Y-%m-%d %H:%M} UTC"


def _target(bucket: Bucket, settings: Settings) -> Target:
    key, secret = bucket.credentials
    return Target(bucket, key, secret, settings.s3_region)
