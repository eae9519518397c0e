"""A machine does no work of another deployment's, and none that it cannot do; looking makes and changes nothing."""

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import DiskFull, IdentityMismatch, SchemaError, ToolMissing
from reelkeeper.operations.core import machine
from reelkeeper.settings import Settings, settings
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import open_store, reading
from tests.databases import statements
from tests.disks import fill, small_disk


@pytest.fixture
def here(tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of a state folder with a store."""
    state = tmp_path / "state"
    state.mkdir()
    shutil.copyfile(migrated_file, state / "store.sqlite3")
    monkeypatch.setenv("REELKEEPER_STATE_DIR", str(state))
    settings.cache_clear()
    yield settings()
    settings.cache_clear()


def owner(here: Settings) -> str:
    with open_store(here) as engine:
        return str(deployment.owner(engine))


def test_a_store_is_its_deployments_also_after_a_move(here: Settings, tmp_path: Path) -> None:
    deployment_id = owner(here)
    machine.require_deployment(here, deployment_id)
    moved = tmp_path / "moved"
    shutil.copytree(here.state_dir, moved)
    machine.require_deployment(Settings(state_dir=moved), deployment_id)


def test_a_machine_without_settings_is_told_what_is_missing_and_makes_nothing(here: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(IdentityMismatch) as refused:
        machine.require_deployment(Settings(state_dir=elsewhere), owner(here))
    for word in ("REELKEEPER_DATABASE_URL", "REELKEEPER_S3_ENDPOINT_URL", machine.name(), owner(here)):
        assert word in str(refused.value)
    assert not elsewhere.exists()


def test_another_store_is_refused_and_stays_as_it_is(here: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    other = Settings(state_dir=folder)
    with open_store(other) as engine, engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(IdentityMismatch):
        machine.require_deployment(other, owner(here))
    with open_store(other, as_it_is=True) as engine:
        revision = engine.connect().execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    assert revision == "0001"
    assert [path.name for path in folder.iterdir() if "backup" in path.name] == []
    (tmp_path / "empty.sqlite3").touch()
    with pytest.raises(IdentityMismatch):
        machine.require_deployment(
            Settings.model_validate({"database_url": f"sqlite:///{tmp_path}/empty.sqlite3"}), owner(here)
        )


@pytest.mark.parametrize("revision", ["0001", "9999"])
def test_a_shared_store_of_another_schema_is_not_worked_on(here: Settings, revision: str) -> None:
    shared = Settings.model_validate({"database_url": f"sqlite:///{here.store_file}"})
    deployment_id = owner(here)
    with open_store(shared) as engine:
        machine.require_fit(engine, here.scratch)
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        with pytest.raises(SchemaError):
            machine.require_fit(engine, here.scratch)
    with pytest.raises(SchemaError):
        machine.require_deployment(shared, deployment_id)


def test_a_machine_whose_ffmpeg_goes_away_is_unfit_at_once(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ffmpeg"
    program.symlink_to(ffmpeg.tools().ffmpeg)
    monkeypatch.setenv("REELKEEPER_FFMPEG", str(program))
    settings.cache_clear()
    with open_store(here) as engine:
        machine.require_fit(engine, here.scratch)
        program.unlink()
        with pytest.raises(ToolMissing):
            machine.require_fit(engine, here.scratch)
        for content in ("#!/nowhere/at/all\n", "not a program"):
            program.write_text(content)
            program.chmod(stat.S_IRWXU)
            with pytest.raises(ToolMissing):
                machine.require_fit(engine, here.scratch)


def test_a_machine_without_room_for_videos_is_unfit_until_it_has_some(here: Settings, tmp_path: Path) -> None:
    with small_disk(tmp_path / "scratch", 64) as scratch, open_store(here) as engine:
        machine.require_fit(engine, scratch)
        filler = fill(scratch, 1_000_000)
        with pytest.raises(DiskFull):
            machine.require_fit(engine, scratch)
        filler.unlink()
        machine.require_fit(engine, scratch)


def test_looking_reads_little(here: Settings) -> None:
    with open_store(here) as engine:
        machine.require_fit(engine, here.scratch)
        with statements(engine) as asked:
            machine.require_fit(engine, here.scratch)
        assert len([statement for statement in asked if "alembic_version" in statement]) == 1
        with reading(engine) as session:
            assert deployment.identity(session) == owner(here)
