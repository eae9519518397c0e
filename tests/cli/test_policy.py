"""`reelkeeper policy`: show, check, apply after a question, list, compare and roll back."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

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
    assert "Version 1 is in force" in reelkeeper("policy", "apply", document, "--reason", "trial", "--yes").stdout
    assert "Nothing to apply" in reelkeeper("policy", "apply", document, "--reason", "again", "--yes").stdout
    assert "trial" in reelkeeper("policy", "history").stdout
    assert "retention_days: 20" in reelkeeper("policy", "show", "--changed").stdout
    assert "tiers.free.retention_days" in reelkeeper("policy", "diff", "--version", "0").stdout
    assert "Version 2 is in force" in reelkeeper("policy", "rollback", "0", "--reason", "no", "--yes").stdout
    assert "No field differs" in reelkeeper("policy", "diff", "--version", "0").stdout


@pytest.mark.long
def test_nothing_is_applied_without_confirmation(document: Path, reelkeeper: Run) -> None:
    reelkeeper("policy", "apply", document, "--reason", "trial", exit_code=1)
    assert "Nothing was applied yet" in reelkeeper("policy", "history").stdout


def test_an_unknown_version_is_reported(reelkeeper: Run) -> None:
    assert "no policy version 7" in reelkeeper("policy", "rollback", "7", "--reason", "x", exit_code=8).output


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
    assert "studio (1 user)" in reelkeeper("policy", "rollback", "0", "--reason", "x", exit_code=9).output
    users.write_text("id,tier,created_at\nann,free,\n")
    reelkeeper("videos", "import", "--users", users)
    assert "Version 2 is in force" in reelkeeper("policy", "apply", document, "--reason", "gone", "--yes").stdout
    users.write_text("id,tier,created_at\nann,studio,\n")
    assert "is not one of free, and not empty" in reelkeeper("videos", "import", "--users", users, exit_code=9).output


def test_a_document_of_segments_is_refused_with_a_remedy_or_shown_as_written(document: Path, reelkeeper: Run) -> None:
    drafts = '[{"name": "drafts", "tags": ["draft"], "retention_days": never}, {"name": "later", "tags": ["draft"]}]'
    written = document.read_text()
    document.write_text(written.replace("segments: []", f"segments: {drafts}"))
    assert "later never decides: drafts stands before it" in reelkeeper("policy", "check", document, exit_code=9).output
    document.write_text(written.replace("segments: []", 'segments: [{"name": "late", "min_bytes": 5}]'))
    assert "lifecycle.segments" in reelkeeper("policy", "check", document).stdout
    reelkeeper("policy", "apply", document, "--reason", "trial", "--yes")
    shown = reelkeeper("policy", "show").stdout
    document.write_text(shown)
    assert '"min_bytes": 5' in shown
    assert "No field differs" in reelkeeper("policy", "check", document).stdout
