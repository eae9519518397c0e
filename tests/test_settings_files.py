"""Secrets from files, as Docker and Kubernetes provide them."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from reelkeeper.cli.opening import configured
from reelkeeper.errors import Misconfigured
from reelkeeper.settings import Settings, settings


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of secrets that the environment names, and nothing else of ours in it."""
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    made = tmp_path / "secrets"
    made.mkdir()
    monkeypatch.setenv("REELKEEPER_SECRETS_DIR", str(made))
    return made


def test_each_secret_is_read_from_the_file_of_its_name(folder: Path) -> None:
    for name in (name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)):
        (folder / f"reelkeeper_{name}").write_text(f"file-{name}\n")
    (folder / "reelkeeper_slack_webhook_url").write_text("")  # a bot is set, too
    (folder / "reelkeeper_prefect_api_auth").write_text("admin:secret\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
        for vendor in ("OPENAI", "COMFYUI", "HTTP"):
            patch.setenv(f"REELKEEPER_{vendor}_URL", "https://videos.example.com")
        patch.setenv("REELKEEPER_SLACK_CHANNEL", "C0123456789")
        patch.setenv("REELKEEPER_SLACK_OPERATORS", "U0123ADA")
        patch.setenv("REELKEEPER_PUBLIC_URL", "https://videos.example.com")
        patch.setenv("REELKEEPER_CACHE_ZONE_ID", "zone")
        patch.setenv("REELKEEPER_CLOUDFLARE_ACCOUNT_ID", "account")
        read = Settings()
    assert read.store_url == "file-database_url"
    assert read.s3_secret_access_key == SecretStr("file-s3_secret_access_key")
    assert read.watchdog_ping_url == SecretStr("file-watchdog_ping_url")


def test_an_empty_file_is_a_secret_that_is_not_set(folder: Path) -> None:
    (folder / "reelkeeper_slack_bot_token").write_text("\n")
    assert Settings().slack_bot_token is None


def test_the_environment_comes_before_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "reelkeeper_database_url").write_text("sqlite:///file")
    monkeypatch.setenv("REELKEEPER_DATABASE_URL", "sqlite:///environment")
    assert Settings().store_url == "sqlite:///environment"


def test_other_files_in_the_folder_are_ignored(folder: Path) -> None:
    (folder / "prefect_api_auth_string").write_text("admin:secret")
    assert Settings().database_url is None


def test_dotenv_may_name_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REELKEEPER_SECRETS_DIR")
    (folder / "reelkeeper_database_url").write_text("sqlite:///file")
    Path(".env").write_text(f"REELKEEPER_SECRETS_DIR={folder}\n")
    assert Settings().store_url == "sqlite:///file"


def test_kubernetes_links_its_files(folder: Path) -> None:
    (folder / "..data").mkdir()
    (folder / "..data" / "reelkeeper_database_url").write_text("sqlite:///linked")
    (folder / "reelkeeper_database_url").symlink_to("..data/reelkeeper_database_url")
    assert Settings().store_url == "sqlite:///linked"


def test_a_missing_folder_is_refused(folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(ValidationError, match="secrets_dir"):
        Settings()


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "reelkeeper_database_url"
    path.write_text("postgresql://secret")

    def refused(_path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))  # root, as whom the tests may run, may read all

    monkeypatch.setattr(Path, "read_text", refused)
    settings.cache_clear()
    with pytest.raises(Misconfigured, match=r"Permission denied: .*reelkeeper_database_url"):
        configured()
