"""The README cannot fall behind: whatever a user can set, start or meet must stand in it, with its true default."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reelkeeper import errors
from reelkeeper.rules.alerts.alerting import AlertPolicy
from reelkeeper.rules.billing.quota import QuotaPolicy
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.access import AccessPolicy
from reelkeeper.rules.core.wording import SENTENCES
from reelkeeper.rules.health.performance import PerformancePolicy
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.dispatch import DispatchPolicy
from reelkeeper.rules.jobs.pruning import PrunePolicy
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.keeping import KeepingPolicy
from reelkeeper.rules.lifecycle.lifecycle import FLOW_RULES, LifecyclePolicy
from reelkeeper.rules.lifecycle.savings import SavingsPolicy
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FLOWS = sorted(path.stem for path in (ROOT / "flows").glob("[a-z]*.py"))
POLICIES: dict[str, type[BaseModel]] = {
    "access": AccessPolicy,
    "admission": AdmissionPolicy,
    "alerting": AlertPolicy,
    "policy": LifecyclePolicy,
    "limits": BlastRadius,
    "pruning": PrunePolicy,
    "keeping": KeepingPolicy,
    "recipe": Recipe,
    "acceptance": Acceptance,
    "book": PriceBook,
    "anomaly": AnomalyPolicy,
    "attempts": AttemptPolicy,
    "budget": BudgetPolicy,
    "order": DispatchPolicy,
    "quota": QuotaPolicy,
    "concurrency": ConcurrencyPolicy,
    "goals": PerformancePolicy,
    "saving": SavingsPolicy,
}


def rows(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    """Give the line of the README for each field of a policy, with what `--param` calls it and its default."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from rows(f"{prefix}.{name}", type(field.default))
        else:
            yield f"| `{prefix}.{name}` | {default(field)} | {field.description} |"


def default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else f"`{value}`" if isinstance(value, str | Path) else f"{value:g}"


def setting_rows() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        shown = "unset" if field.default is None else default(field)
        yield f"| `REELKEEPER_{name.upper()}` | {shown} | {field.description} |"


def missing(lines: Iterator[str]) -> str:
    """Give the lines that the README lacks, to be pasted into it."""
    return "\n".join(line for line in lines if line not in README.splitlines())


@pytest.mark.parametrize("prefix", sorted(POLICIES))
def test_every_threshold_stands_there_with_its_default(prefix: str) -> None:
    assert not missing(rows(prefix, POLICIES[prefix]))


def test_every_setting_stands_there_with_its_default() -> None:
    assert not missing(setting_rows())


def test_no_threshold_or_setting_stands_there_that_is_gone() -> None:
    known = {row.split("|")[1] for prefix, model in POLICIES.items() for row in rows(prefix, model)}
    known |= {row.split("|")[1] for row in setting_rows()}
    there = re.findall(rf"^\|( `(?:(?:{'|'.join(POLICIES)})\.\S+|REELKEEPER_\S+)` )\|", README, re.MULTILINE)
    assert set(there) <= known


def test_every_flow_stands_there() -> None:
    assert set(FLOW_RULES) <= set(FLOWS)
    assert not [flow for flow in FLOWS if not re.search(rf"^\| `{flow}` \|", README, re.MULTILINE)]


def test_every_exit_code_stands_there() -> None:
    codes = {0, *(kind.exit_code for kind in _descendants(errors.ReelkeeperError))}
    assert not [code for code in sorted(codes) if not re.search(rf"^\| {code} \| \S", README, re.MULTILINE)]


def test_every_rule_of_the_lifecycle_stands_there() -> None:
    assert not [rule for rule in SENTENCES if f"`{rule}`" not in README]


def test_every_command_stands_there() -> None:
    cli = pytest.importorskip("reelkeeper.cli")
    names = [each.name or each.callback.__name__ for each in cli.app.registered_commands]
    names += [group.name for group in cli.app.registered_groups]
    assert len(names) > 5
    assert not [name for name in names if f"reelkeeper {name}" not in README]


def test_every_make_target_stands_there() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not [target for target in targets if f"make {target}" not in README]


def test_every_file_it_points_to_is_there() -> None:
    pointed = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    pointed += re.findall(r"`((?:reelkeeper|flows|tasks|tests|bench|deployments)/[\w/]+\.(?:py|csv))`", README)
    assert pointed
    assert not [path for path in pointed if not (ROOT / path).exists()]


def _descendants(kind: type[errors.ReelkeeperError]) -> Iterator[type[errors.ReelkeeperError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _descendants(child)


if __name__ == "__main__":  # the tables, to be pasted into the README
    for prefix, model in POLICIES.items():
        print(*rows(prefix, model), "", sep="\n")  # noqa: T201  that is what it is for
    print(*setting_rows(), sep="\n")  # noqa: T201  the same
