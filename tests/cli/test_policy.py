"""`reelkeeper policy`: show, check, apply after a question, list, compare and roll back."""

from collections.abc import Callable
from pathlib import Path

import pytest
from inline_snapshot import snapshot
from typer.testing import Result

from reelkeeper.errors import SchemaError
from reelkeeper.model import Grace
from reelkeeper.rules.lifecycle.transcode import links
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_store
from tests.policies import apply_as_earlier
from tests.reading import as_read

Run = Callable[..., Result]


@pytest.fixture
def document(tmp_path: Path, reelkeeper: Run) -> Path:
    """What is in force, with a shorter retention."""
    file = tmp_path / "policies.yaml"
    shown = reelkeeper("policy", "show").stdout
    file.write_text(shown.replace("retention_days: 30", "retention_days: 20"))
    return file


@pytest.mark.long
def test_a_document_is_applied_listed_compared_and_taken_back(document: Path, reelkeeper: Run) -> None:
    assert "tiers.free.retention_days" in reelkeeper("policy", "check", document).stdout
    assert as_read(reelkeeper("policy", "apply", document, "--reason", "trial", "--yes").stdout) == snapshot("""\
field version 0 then
tiers.free.retention_days 30 20
what it does videos bytes
newly retired 0 0 B
newly kept 0 0 B
newly compressed 0
live videos 0 0 B
Storage costs the same.
Reduced promise to users: 0 free users would keep videos 20 days, not 30 days.
Version 1 is in force. To undo: reelkeeper policy rollback 0 --reason ...\
""")
    assert as_read(reelkeeper("policy", "apply", document, "--reason", "again", "--yes").stdout) == snapshot("""\
No field differs.
what it does videos bytes
newly retired 0 0 B
newly kept 0 0 B
newly compressed 0
live videos 0 0 B
Storage costs the same.
Nothing to apply: these policies are in force already.\
""")
    assert "trial" in reelkeeper("policy", "history").stdout
    assert "retention_days: 20" in reelkeeper("policy", "show", "--changed").stdout
    assert "tiers.free.retention_days" in reelkeeper("policy", "diff", "--version", "0").stdout
    assert as_read(reelkeeper("policy", "rollback", "0", "--reason", "no", "--yes").stdout) == snapshot("""\
field version 1 then
tiers.free.retention_days 20 30
what it does videos bytes
newly retired 0 0 B
newly kept 0 0 B
newly compressed 0
live videos 0 0 B
Storage costs the same.
Version 2 is in force. To undo: reelkeeper policy rollback 1 --reason ...\
""")
    assert as_read(reelkeeper("policy", "diff", "--version", "0").stdout) == snapshot("No field differs.")


def test_a_document_that_changes_what_becomes_of_links_says_so(tmp_path: Path, reelkeeper: Run) -> None:
    document = tmp_path / "new_key.yaml"
    for placement in ("new_key", "in_place", "auto"):
        document.write_text(f"recipe: {{placement: {placement}}}")
        said = " ".join(reelkeeper("policy", "apply", document, "--reason", "trial", "--yes").stdout.split())
        told = links("new_key" if placement == "new_key" else "in_place", Grace())
        assert (told in said) == (placement != "auto")  # which replaces in place too


@pytest.mark.long
def test_nothing_is_applied_without_confirmation(document: Path, reelkeeper: Run) -> None:
    reelkeeper("policy", "apply", document, "--reason", "trial", exit_code=1)
    assert as_read(reelkeeper("policy", "history").stdout) == snapshot(
        "Version 0, the shipped defaults, is in force. Nothing was applied yet."
    )


def test_a_version_with_what_nobody_can_set_now_is_shown_and_not_brought_back(
    tmp_path: Path,
    reelkeeper: Run,
    configured: Settings,
) -> None:
    with open_store(configured) as engine:
        old = apply_as_earlier(engine, **{"breaker.attempts": 50})
    reelkeeper("status", exit_code=SchemaError.exit_code)
    document = tmp_path / "policies.yaml"
    document.write_text(reelkeeper("policy", "show").stdout)
    assert as_read("\n".join(document.read_text().splitlines()[:2])) == snapshot("""\
# Version 1
# Left out: breaker.attempts=50, but it is 20 for every deployment now\
""")
    assert reelkeeper("policy", "check", document).stdout.count("breaker.") == 1
    reelkeeper("policy", "apply", document, "--reason", "upgrade", "--yes")
    reelkeeper("policy", "show", "--version", old)
    assert as_read(reelkeeper("policy", "rollback", old, "--reason", "x", exit_code=9).output) == snapshot("""\
error: nothing was applied: policy version 1 sets breaker.attempts=50, but it is 20 for every
  deployment now. To apply the rest of it: reelkeeper policy show --version 1 > policies.yaml,
  then reelkeeper policy apply policies.yaml --reason TEXT\
""")


def test_an_unknown_version_is_reported(reelkeeper: Run) -> None:
    assert as_read(reelkeeper("policy", "rollback", "7", "--reason", "x", exit_code=8).output) == snapshot(
        "error: no policy version 7. To see the versions: reelkeeper policy history"
    )


@pytest.mark.long
def test_a_document_adds_tiers_and_removes_only_unused_ones(tmp_path: Path, reelkeeper: Run) -> None:
    document, users = tmp_path / "policies.yaml", tmp_path / "users.csv"
    document.write_text("tiers: {free: {}, studio: {retention_days: never, quota_bytes: 1000000000000}}")
    assert "studio" in reelkeeper("policy", "check", document).stdout
    reelkeeper("policy", "apply", document, "--reason", "a tier for studios", "--yes")
    users.write_text("id,tier,created_at\nann,studio,\n")
    reelkeeper("videos", "import", "--users", users)
    document.write_text("tiers: {free: {}}")
    for words in (("check", document), ("apply", document, "--reason", "nobody buys it", "--yes")):
        assert "studio (1 user)" in reelkeeper("policy", *words, exit_code=9).output
    assert as_read(reelkeeper("policy", "rollback", "0", "--reason", "x", exit_code=9).output) == snapshot("""\
field version 1 then
tiers ["free", "studio"] ["free", "premium", "pro"]
tiers.studio.retention_days never -
tiers.studio.notice_days 0 -
tiers.studio.keep_days 0 -
tiers.studio.quota_bytes 1000000000000 -
tiers.studio.queue_weight 1.0 -
tiers.studio.queue_points 0 -
tiers.premium.retention_days - 90
tiers.premium.notice_days - 0
tiers.premium.keep_days - 0
tiers.premium.quota_bytes - 1073741824
tiers.premium.queue_weight - 1.5
tiers.premium.queue_points - 100
tiers.pro.retention_days - 365
tiers.pro.notice_days - 0
tiers.pro.keep_days - 0
tiers.pro.quota_bytes - 10737418240
tiers.pro.queue_weight - 2.0
tiers.pro.queue_points - 200
what it does videos bytes
newly retired 0 0 B
newly kept 0 0 B
newly compressed 0
live videos 0 0 B
Storage costs the same.
Reduced promise to users: 1 studio user would have no tier: their videos would be kept, and they
  could store nothing new.
error: nothing was applied: the tiers are only free, premium, pro then, and users have studio (1
  user). A document that names a tier must name all: add studio, as reelkeeper policy show prints
  them. Only to remove a tier for good, give its users another one first
To list the tiers (`tiers` in the policies): reelkeeper policy show\
""")
    users.write_text("id,tier,created_at\nann,free,\n")
    reelkeeper("videos", "import", "--users", users)
    assert as_read(reelkeeper("policy", "apply", document, "--reason", "gone", "--yes").stdout) == snapshot("""\
field version 1 then
tiers ["free", "studio"] ["free"]
tiers.studio.retention_days never -
tiers.studio.notice_days 0 -
tiers.studio.keep_days 0 -
tiers.studio.quota_bytes 1000000000000 -
tiers.studio.queue_weight 1.0 -
tiers.studio.queue_points 0 -
what it does videos bytes
newly retired 0 0 B
newly kept 0 0 B
newly compressed 0
live videos 0 0 B
Storage costs the same.
Reduced promise to users: 0 studio users would have no tier: their videos would be kept, and
  they could store nothing new.
Version 2 is in force. To undo: reelkeeper policy rollback 1 --reason ...\
""")
    users.write_text("id,tier,created_at\nann,studio,\n")
    assert as_read(reelkeeper("videos", "import", "--users", users, exit_code=9).output, file=users) == snapshot("""\
error: <file>: nothing of it was taken, because 1 field is invalid: line 2, column tier:
  'studio' is not one of free, and not empty\
""")


@pytest.mark.parametrize(
    "text", ["id,tier\nann,free\n", "- a", "deployments: 3", "deployments: [3]", "a: [", "[" * 5_000]
)
def test_what_is_no_prefect_yaml_is_not_imported(tmp_path: Path, reelkeeper: Run, text: str) -> None:
    (tmp_path / "prefect.yaml").write_text(text)
    assert "prefect.yaml" in reelkeeper("policy", "import", tmp_path / "prefect.yaml", exit_code=9).output


def test_a_document_of_segments_is_refused_with_a_remedy_or_shown_as_written(document: Path, reelkeeper: Run) -> None:
    drafts = '[{"name": "drafts", "tags": ["draft"], "retention_days": never}, {"name": "later", "tags": ["draft"]}]'
    written = document.read_text()
    document.write_text(written.replace("segments: []", f"segments: {drafts}"))
    assert as_read(reelkeeper("policy", "check", document, exit_code=9).output, file=document) == snapshot("""\
error: <file> was refused, and nothing was changed:
the document: segment later never decides: drafts stands before it and matches all that it does.
  Put later first, or ask less of what drafts matches\
""")
    document.write_text(written.replace("segments: []", 'segments: [{"name": "late", "min_bytes": 5}]'))
    assert "lifecycle.segments" in reelkeeper("policy", "check", document).stdout
    reelkeeper("policy", "apply", document, "--reason", "trial", "--yes")
    shown = reelkeeper("policy", "show").stdout
    document.write_text(shown)
    assert '"min_bytes": 5' in shown
    assert as_read(reelkeeper("policy", "check", document).stdout) == snapshot("""\
No field differs.
what it does videos bytes
newly retired 0 0 B
newly kept 0 0 B
newly compressed 0
live videos 0 0 B
Storage costs the same.\
""")
