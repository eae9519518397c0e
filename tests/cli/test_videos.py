"""`videos`: stored, listed, shown, and imported from the service's data."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from tests.cli.conftest import Run
from tests.reading import as_read

Ask = Callable[..., Any]


def test_a_video_that_was_added_is_listed_and_has_a_history(ask: Ask, one_video: str, tiny_clip: Path) -> None:
    (listed,) = ask("videos", "--user", "ann", "--state", "live")
    assert (listed["id"], listed["tier"], listed["codec"]) == (one_video, None, "h264")
    assert listed["size_bytes"] == tiny_clip.stat().st_size
    assert listed["created_at"] == "2026-01-01T00:00:00+00:00"
    shown = ask("videos", "show", one_video)
    assert [item["event"]["event"] for item in shown["history"]] == ["upload"]
    assert [item["state"] for item in shown["objects"]] == ["live"]


@pytest.mark.long
def test_adding_again_gives_the_video_its_next_generation(
    reelkeeper: Run, ask: Ask, one_video: str, tiny_clip: Path
) -> None:
    reelkeeper("videos", "add", tiny_clip, "--user", "ann", "--video", one_video)
    shown = ask("videos", "show", one_video)
    assert [(item["generation"], item["state"]) for item in shown["objects"]] == [(1, "retired"), (2, "live")]


def test_people_get_tables(reelkeeper: Run, one_video: str) -> None:
    assert "ann" in reelkeeper("videos").stdout
    said = reelkeeper("videos", "show", one_video).stdout
    assert as_read(said.splitlines()[0]) == snapshot("v1 of ann (tier unknown), live, unknown views.")
    assert "upload" in said


def test_an_unknown_video_ends_with_8(reelkeeper: Run) -> None:
    assert reelkeeper("videos", "show", "nobody", exit_code=8).stderr == snapshot(
        "error: no video 'nobody' in the catalogue\n"
    )


@pytest.mark.long
def test_videos_of_an_unknown_user_are_an_error_and_of_one_without_any_an_empty_list(
    ask: Ask, reelkeeper: Run, one_video: str
) -> None:
    assert [video["id"] for video in ask("videos", "--user", "ann")] == [one_video]
    assert ask("videos", "--user", "ann", "--state", "lost") == []
    assert reelkeeper("videos", "--user", "amm", exit_code=8).stderr == snapshot(
        "error: no user 'amm' in the catalogue\n"
    )


def test_a_file_that_is_no_video_is_not_stored(reelkeeper: Run, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "fake.mp4").write_text("#EXTM3U\n/etc/passwd\n")
    (tmp_path / "film.avi").write_bytes(b"RIFF")
    reelkeeper("videos", "add", tmp_path / "fake.mp4", "--user", "ann", "--video", "v9", exit_code=1)
    reelkeeper("videos", "add", tmp_path / "film.avi", "--user", "ann", "--video", "v9", exit_code=2)
    reelkeeper("videos", "add", tmp_path / "none.mp4", "--user", "ann", "--video", "v9", exit_code=2)
    assert ask("videos") == []


def test_another_users_video_is_not_replaced(reelkeeper: Run, one_video: str, tiny_clip: Path) -> None:
    reelkeeper("videos", "add", tiny_clip, "--user", "bob", "--video", one_video, exit_code=8)


def test_imports_bring_tiers_ages_and_views(ask: Ask, one_video: str, tmp_path: Path) -> None:
    day = (datetime.now(UTC) - timedelta(days=2)).date()
    (tmp_path / "users.csv").write_text("id,tier,created_at\nann,pro,2025-01-01T00:00:00Z\n")
    (tmp_path / "videos.csv").write_text(f"id,user_id,created_at\n{one_video},ann,2025-06-01T00:00:00Z\n")
    (tmp_path / "views.csv").write_text(f"video_id,day,views\n{one_video},{day},7\n")
    files = [word for name in ("users", "videos", "views") for word in (f"--{name}", tmp_path / f"{name}.csv")]
    taken = ask("videos", "import", *files, "--complete-days")
    assert {name: count["lines"] for name, count in taken.items()} == {"users": 1, "videos": 1, "views": 1}
    (listed,) = ask("videos")
    assert (listed["tier"], listed["views"], listed["created_at"][:10]) == ("pro", 7, "2025-06-01")


def test_one_bad_line_and_nothing_is_imported(reelkeeper: Run, ask: Ask, one_video: str, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("id,tier,created_at\nann,pro,\nbob,gold,\n")
    said = reelkeeper("videos", "import", "--users", tmp_path / "users.csv", exit_code=9).stderr
    assert "'gold'" in said
    assert [item["tier"] for item in ask("videos")] == [None]
    assert one_video


def test_a_file_from_excel_is_taken_and_of_several_the_bad_one_is_named(
    reelkeeper: Run, ask: Ask, one_video: str, tmp_path: Path
) -> None:
    users, videos = tmp_path / "users.csv", tmp_path / "videos.csv"
    users.write_text("id,tier,created_at\r\nann,pro,\r\n", encoding="utf-8-sig")
    videos.write_text(f"id,user_id,created_at,tag\n{one_video},ann,,entwürfe\n", encoding="latin-1")
    views = tmp_path / "views.csv"
    views.write_text(f"video_id,day,views\n{one_video},2026-11-01,5\n")
    files = ("--users", users, "--videos", videos, "--views", views)
    assert ask("videos", "import", *files, exit_code=6) == {"users": {"lines": 1, "skipped": 0}}
    answer = reelkeeper("videos", "import", *files, exit_code=6)
    assert as_read(answer.stdout) == snapshot("""\
users: 1 line imported
views: not imported, as a file before it was refused\
""")
    assert as_read(answer.stderr, videos=videos) == snapshot("""\
error: <videos>: nothing of it was taken, because it is not in UTF-8: 'utf-8' codec can't decode
  byte 0xfc in position 38: invalid start byte\
""")
    videos.write_text("id,user_id,created_at\nnobody,ann,\n")
    answer = reelkeeper("videos", "import", "--videos", videos, exit_code=9)
    assert as_read(answer.stderr, videos=videos) == snapshot("""\
error: <videos>: nothing of it was taken, because 1 field is invalid: line 2, column id:
  'nobody' is not in the catalogue; run sync_catalog, which takes no empty object, or use
  --skip-unknown\
""")
    reelkeeper("videos", "import", "--users", users, "--complete-days", exit_code=2)  # of no views


def test_why_takes_a_key_as_show_does(ask: Ask, reelkeeper: Run, one_video: str) -> None:
    (shown,) = ask("videos", "show", one_video)["objects"]
    assert ask("videos", "why", shown["key"])["video_id"] == one_video
    assert as_read(reelkeeper("videos", "why", "videos/none.mp4", exit_code=8).stderr) == snapshot(
        "error: no video 'videos/none.mp4' in the catalogue"
    )


def test_names_are_shown_as_they_are_and_not_as_markup(reelkeeper: Run, one_video: str) -> None:
    reelkeeper("hold", "--video", one_video, "--reason", "[red]court[/red]")
    assert "[red]court[/red]" in reelkeeper("hold", "--list").stdout


def test_a_video_is_not_added_as_made_at_a_time_that_was_never_set(reelkeeper: Run, ask: Ask, tiny_clip: Path) -> None:
    add = ("videos", "add", tiny_clip, "--user", "ann", "--video", "v1")
    reelkeeper(*add, "--created-at", "1970-01-01", exit_code=2)
    assert ask("videos") == []
