"""An unknown setting is refused, with the name that was probably meant."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.errors import Misconfigured
from reelkeeper.settings import Settings, settings
from tests.reading import as_read


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Read settings anew, from a folder without a `.env` of the developer's."""
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    yield
    settings.cache_clear()


def refusal() -> str:
    with pytest.raises(Misconfigured) as refused:
        settings()
    return str(refused.value)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_one_wrong_letter_of_any_setting_is_refused_and_the_setting_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = f"REELKEEPER_{name.upper()}"
    monkeypatch.setenv(f"{right}X", "a-secret")
    assert as_read(refusal(), name=right) == snapshot("""\
settings that do not exist: <name>X (in the environment), did you mean <name>?. docs/settings.md
  lists them all\
""")
    assert "a-secret" not in refusal()


def test_dotenv_and_secret_files_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "reelkeeper_slack_bot_tokn").write_text("hush")
    Path(".env").write_text(f"REELKEEPER_SECRETS_DIR={tmp_path / 'secrets'}\nREELKEEPER_BUKET=films\nOTHER=1\n")
    said = refusal()
    assert as_read(said, folder=tmp_path / "secrets") == snapshot("""\
settings that do not exist: reelkeeper_buket (in .env), did you mean REELKEEPER_BUCKET?;
  reelkeeper_slack_bot_tokn (a file in <folder>), did you mean REELKEEPER_SLACK_BOT_TOKEN?.
  docs/settings.md lists them all\
""")
    assert "hush" not in said
    assert "films" not in said


def test_a_setting_of_earlier_versions_is_refused_with_what_says_it_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_FFPROBE", "/opt/ffprobe")
    assert as_read(refusal()) == snapshot("""\
settings that do not exist: REELKEEPER_FFPROBE (in the environment): ffprobe is the one beside
  REELKEEPER_FFMPEG. docs/settings.md lists them all\
""")


def test_a_name_like_no_other_is_refused_without_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_QQ", "1")
    assert as_read(refusal()) == snapshot(
        "settings that do not exist: REELKEEPER_QQ (in the environment). docs/settings.md lists them all"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REELKEEPER_FAILPOINTS", ""),
        ("REELKEEPER_HOME", "."),
        ("REELKEEPER_URL", "https://films"),
        ("REELKEEPER_TOKEN", "t"),
        ("REELKEEPER_TEST_R2_BUCKET", "b"),
        ("REELKEEPER_SERVICE_HOST", "10.0.0.1"),  # of Kubernetes, for a Service named reelkeeper
        ("REELKEEPER_API_SERVICE_PORT_HTTP", "80"),
        ("REELKEEPER_API_PORT", "tcp://10.0.0.1:80"),
        ("REELKEEPER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("reelkeeper_bucket", "films"),  # pydantic-settings takes any case
    ],
)
def test_settings_of_other_programs_are_left_alone(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    settings()


def test_a_port_that_a_person_wrote_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_API_PORT", "8787")
    assert as_read(refusal()) == snapshot("""\
settings that do not exist: REELKEEPER_API_PORT (in the environment), did you mean
  REELKEEPER_API_URL?. docs/settings.md lists them all\
""")


def test_a_file_in_another_encoding_is_a_setting_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("# für den Dienst\n".encode("latin-1"))
    assert ".env" in refusal()
