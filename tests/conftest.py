"""Fixtures of the whole suite."""

import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

os.environ["COLUMNS"] = "100"  # as wide as where there is no terminal: pytest-xdist says 80

pytest_plugins = [
    "tests.draw",
    "tests.made_once",
    "tests.browser",
    "tests.databases",
    "tests.buckets",
    "tests.clips",
    "tests.cloudflare",
    "tests.worlds",
    "tests.vendors",
]

# How long one example takes says nothing on a busy machine. Other examples come each time: more in test-long, most in
# the soak.
UNHURRIED: Final[Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=25, **UNHURRIED)
settings.register_profile("thorough", max_examples=100, **UNHURRIED)
settings.register_profile("exhaustive", max_examples=500, **UNHURRIED)
settings.load_profile("quick")


class _Together(LoadFileScheduling):  # type: ignore[misc]  # its package ships no types
    """A file of tests stays in one process, and so do all the flows: a Prefect server takes 12 s of CPU to start."""

    def _split_scope(self, nodeid: str) -> str:
        return "flows" if nodeid.startswith("tests/flows/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Make `--dist loadfile`, as in `make test`, keep tests that share fixtures together."""
    return _Together(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage less often, and neither during collection nor among what that loads: a tenth of all CPU."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


# Where rows are locked and money is moved, the quick tests run on PostgreSQL too; what stands on it, in test-long.
QUICK_ON_POSTGRESQL: Final = (
    "tests/store/core/",
    "tests/operations/billing/test_ledger",
    "tests/operations/jobs/test_cl",
)

# Each test of these takes a seventh of a second of CPU or more, with its servers, so they are test-long's as a whole.
LONG_FILES: Final = {
    "tests/ablation/": "a copy of the tree",
    "tests/adapters/test_charts.py": "many pictures are drawn",
    "tests/adapters/test_disk.py": "encodes on a full disk",
    "tests/api/test_former_ids.py": "videos of many ids, from upload to deletion",
    "tests/api/test_headers.py": "servers of their own, and connections by hand",
    "tests/api/test_hooks.py": "callbacks of jobs that a worker makes",
    "tests/api/test_hooks_runs.py": "runs that Prefect's automations report",
    "tests/api/test_hooks_slack.py": "clicks that plan and carry out",
    "tests/api/test_personal.py": "exports and erasures in a bucket",
    "tests/api/test_schema.py": "every route with values of every type",
    "tests/api/test_uploads.py": "uploads from promise to end",
    "tests/cli/test_doctor.py": "a deployment of its own for each, and its contract test",
    "tests/cli/test_people.py": "exports and erasures in a bucket",
    "tests/cli/test_records.py": "stores that move and are restored",
    "tests/cli/test_scan.py": "a process and a bucket for each",
    "tests/cli/test_simulate.py": "nights that are replayed one by one",
    "tests/cli/test_status.py": "a deployment of its own for each",
    "tests/cli/test_up.py": "a deployment of its own for each",
    "tests/deployments/test_up_live.py": "processes that start and end",
    "tests/docker/test_kubernetes.py": "hundreds of resources against Kubernetes' schemas",
    "tests/e2e/test_ids.py": "dozens of ids through every front",
    "tests/faults/test_kills.py": "a child for each failpoint",
    "tests/faults/test_zombies.py": "a run that sleeps, and the one that takes over",
    "tests/flows/test_back_up_store.py": "a whole store that is written and read",
    "tests/flows/test_bootstrap.py": "a Prefect server that is set up again and again",
    "tests/flows/test_command.py": "runs under a Prefect server",
    "tests/flows/test_machines.py": "workers that start and end",
    "tests/flows/test_plan_words.py": "runs under a Prefect server",
    "tests/flows/test_sync_catalog.py": "whole syncs of a bucket",
    "tests/flows/test_tier_storage.py": "encodes of whole clips",
    "tests/flows/test_trial.py": "every flow in a trial",
    "tests/mutants/": "a copy of the tree",
    "tests/operations/alerts/test_webhooks.py": "endpoints that are slow, refuse, or are dead",
    "tests/operations/billing/test_user_costs.py": "months of jobs at every vendor",
    "tests/operations/health/test_backups.py": "stores that are restored through all migrations",
    "tests/operations/jobs/test_breaker.py": "hours of failing jobs",
    "tests/operations/jobs/test_catalogue.py": "jobs at every vendor",
    "tests/operations/jobs/test_every_provider.py": "a server of each vendor",
    "tests/operations/jobs/test_no_room.py": "clips of dozens of megabytes on a disk of their own",
    "tests/operations/jobs/test_provider_trouble.py": "vendors that are down for a day",
    "tests/operations/jobs/test_quote.py": "a quote for every kind of request",
    "tests/operations/jobs/test_scores.py": "queues of hundreds of jobs",
    "tests/operations/jobs/test_unreadable_results.py": "jobs that are looked up for a day",
    "tests/operations/jobs/test_vendor_charges.py": "jobs at every vendor",
    "tests/operations/jobs/test_vendor_word.py": "jobs at every vendor, and their bills",
    "tests/operations/lifecycle/test_behind.py": "two stores at one bucket",
    "tests/operations/lifecycle/test_candidates.py": "dozens of generated catalogues",
    "tests/operations/lifecycle/test_doubts.py": "several syncs of a bucket",
    "tests/operations/lifecycle/test_in_place.py": "whole swaps at a bucket",
    "tests/operations/lifecycle/test_moved_stores.py": "two stores at one bucket",
    "tests/operations/lifecycle/test_notices.py": "nights in a row, with webhooks",
    "tests/operations/lifecycle/test_provenance.py": "whole swaps of clips",
    "tests/operations/lifecycle/test_swap.py": "whole swaps at a bucket",
    "tests/operations/removals/": "whole deletions in a bucket",
    "tests/operations/reports/": "pages with their pictures",
    "tests/operations/sync/test_events.py": "several syncs of a bucket",
    "tests/operations/videos/test_overwrites.py": "several syncs of a bucket",
    "tests/rules/forecast/": "fits of many series",
    "tests/rules/lifecycle/test_lifecycle_properties.py": "hundreds of generated catalogues",
    "tests/simulation/": "nights that are replayed one by one",
    "tests/store/core/test_move.py": "stores that are moved to another database",
    "tests/store/core/test_schema.py": "all migrations, up and down",
    "tests/test_private_files.py": "a deployment of its own for each",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files of `LONG_FILES` unread where no long test is asked for: to load them all costs 7 s of CPU."""
    if config.getoption("markexpr") == "not long" and collection_path.is_file():
        return str(collection_path.relative_to(config.rootpath)).startswith(tuple(LONG_FILES)) or None
    return None


# Why the tests that are marked as long there take so long, where the mark itself does not say it.
WHY_LONG: Final = {
    "tests/adapters/contract/": "Cloudflare's simulator, and bodies of megabytes",
    "tests/adapters/ffmpeg/": "encodes, and tools that are killed",
    "tests/adapters/s3/test_r2_stored.py": "hundreds of objects are stored first",
    "tests/adapters/s3/test_seaweed.py": "S3 servers that start, die and start again",
    "tests/adapters/test_charts.py": "many pictures are drawn",
    "tests/api/test_doors.py": "hundreds of connections, and waits for time limits",
    "tests/api/test_client.py": "a whole life of a service over HTTP",
    "tests/api/test_uploads.py": "uploads from promise to end",
    "tests/cli/": "a deployment of its own, and several commands on it",
    "tests/demo/": "the whole demo",
    "tests/deployments/": "processes that load Prefect",
    "tests/docker/": "images are built, and containers start",
    "tests/e2e/": "whole installations",
    "tests/faults/": "a child or a world for each kill",
    "tests/flows/": "runs under a Prefect server",
    "tests/operations/alerts/": "hundreds of messages, or sinks that trickle",
    "tests/operations/billing/": "hundreds of random steps, or months that are charged again and again",
    "tests/operations/core/test_prune_records.py": "hundreds of rows of every kind, and many runs",
    "tests/operations/jobs/": "vendors, workers and generated videos, or many processes at once",
    "tests/operations/lifecycle/test_in_p": "a whole swap at a bucket",
    "tests/operations/lifecycle/test_transcode": "encodes of whole clips",
    "tests/operations/sync/": "whole syncs of a bucket with many objects",
    "tests/operations/videos/test_overwrites.py": "a sync and a purge in each state",
    "tests/store/core/test_backup.py": "whole stores that are written and read",
    "tests/store/core/test_migration_kills.py": "a process for each kill of a migration",
    "tests/store/core/test_schema.py": "all migrations, up and down",
    "tests/test_snapshots.py": "pytests of their own",
}

LONGEST: Final = "tests/docker/test_stack.py"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Mark as long what is; give such tests more time than the timeout of pyproject.toml. The longest comes first.

    The marks are made before tests are chosen by them; the order after it was drawn at random.
    """
    for item in items:
        store = item.callspec.params.get("engine") if hasattr(item, "callspec") else None
        if (
            item.get_closest_marker("soak")
            or item.nodeid.startswith(tuple(LONG_FILES))
            or (store == "postgresql" and not item.nodeid.startswith(QUICK_ON_POSTGRESQL))
        ):
            item.add_marker("long")
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(7_200 if item.get_closest_marker("soak") else 2_400))
    yield
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))  # at the end, all would wait for its seven minutes
