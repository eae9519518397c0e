"""Reelkeeper's files on this machine are readable only by its own user, whatever the umask."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from deployments import orchestration
from reelkeeper.adapters.s3 import seaweed
from reelkeeper.disk import exposed, make_file, make_folder, tighten
from reelkeeper.operations.health import doctor
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_store, reading
from tests.marks import marked
from tests.reading import as_read

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="reelkeeper-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def generous() -> Iterator[None]:
    """An umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


def settings(state: Path) -> Settings:
    return Settings(state_dir=state, _env_file=None)


def use(state: Path) -> dict[str, int]:
    """Open the embedded store, and give the mode of each of its files while it is in use."""
    with open_store(settings(state)) as engine, reading(engine) as session:
        session.execute(sa.text("SELECT 1 FROM alembic_version"))
        return {path.name: mode(path) for path in state.glob("store.sqlite3*")}


def readable_by_another(path: Path) -> bool:
    reader = ["/bin/cat", str(path)]
    done = subprocess.run(reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=NOBODY, check=False)
    return done.returncode == 0


@pytest.mark.usefixtures("generous")
def test_the_embedded_store_is_made_for_its_user_alone(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = place / "new" / "state"
    files = use(state)
    assert caplog.messages == []  # it never was open to others
    assert set(files) >= {"store.sqlite3", "store.sqlite3-wal", "store.sqlite3-shm"}
    assert set(files.values()) == {0o600}
    assert mode(state) == mode(state.parent) == 0o700


@pytest.mark.usefixtures("generous")
def test_a_file_is_private_from_its_first_moment_and_one_that_exists_is_left(place: Path) -> None:
    make_file(place / "new")
    (place / "old").touch()
    make_file(place / "old")
    assert (mode(place / "new"), mode(place / "old")) == (0o600, 0o666)


@pytest.mark.usefixtures("generous")
def test_the_embedded_bucket_and_prefects_home_are_made_for_their_user_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seaweed.running(place / "state" / "s3", "videos"):
        assert mode(place / "state") == mode(place / "state" / "s3") == 0o700
        assert exposed(*(place / "state" / "s3").glob("*.json"), place / "state" / "s3" / "data") == []
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as during:
        during.setattr(os, "environ", dict(os.environ))
        orchestration.prepare(place / "other")
    assert mode(place / "other" / "prefect") == mode(place / "other") == 0o700


def loosen(state: Path) -> None:
    """As version 0.1.0 made it under the usual umask."""
    for path in state.glob("store.sqlite3*"):
        path.chmod(0o644)
    state.chmod(0o755)


def test_files_of_an_earlier_version_with_wider_modes_are_restricted_and_reported(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = place / "state"
    use(state)
    loosen(state)
    (finding,) = [doctor._privacy(settings(state))]
    assert finding.state == "warn"
    assert f"chmod go-rwx {state} " in finding.remedy
    assert set(use(state).values()) == {0o600}
    assert mode(state) == 0o700
    told = [record.getMessage() for record in caplog.records]
    assert as_read("\n".join(told), only="(mode 0700)", state=state) == snapshot(
        "<state> was open to other users of this machine (mode 0755); now to its owner alone (mode 0700)"
    )
    assert any("store.sqlite3" in line and "0600" in line for line in told)
    caplog.clear()
    use(state)
    assert not caplog.records
    assert doctor._privacy(settings(state)).state == "ok"


@as_root
def test_another_user_can_read_it_no_longer(place: Path) -> None:
    state = place / "state"
    use(state)
    loosen(state)
    assert readable_by_another(state / "store.sqlite3")
    use(state)
    assert not readable_by_another(state / "store.sqlite3")
    state.chmod(0o755)
    assert not readable_by_another(state / "store.sqlite3")


@as_root
def test_files_of_another_user_are_left_and_doctor_warns(place: Path) -> None:
    state = make_folder(place / "state")
    os.chown(state, NOBODY, NOBODY)
    state.chmod(0o750)
    tighten(state)
    assert mode(state) == 0o750
    assert marked(doctor._privacy(settings(state)).found, FOLDER=place) == snapshot(
        "other users of this machine can reach FOLDER/state"
    )


def test_a_folder_that_we_were_only_pointed_at_is_left(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, home, here = (make_folder(place / name) for name in ("temporary", "home", "here"))
    temporary.chmod(0o1777)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    for folder in (home, here):
        folder.chmod(0o755)
    tighten(temporary, home, here, place / "missing")
    assert [mode(folder) for folder in (temporary, home, here)] == [0o1777, 0o755, 0o755]
    assert set(use(temporary).values()) == {0o600}


@pytest.mark.parametrize("theirs", ["index.html", "videos", ".git"])
def test_a_folder_in_which_another_program_keeps_its_files_is_left_and_doctor_warns(
    place: Path, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    www = make_folder(place / "www")
    (www / theirs).touch()
    www.chmod(0o755)
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):  # the second time ours are there, too
        assert set(use(www).values()) == {0o600}
        with monkeypatch.context() as during:
            during.setattr(os, "environ", dict(os.environ))
            orchestration.prepare(www)
    assert (mode(www), mode(www / "prefect")) == (0o755, 0o700)
    assert doctor._privacy(settings(www)).state == "warn"


def test_a_folder_that_exists_keeps_its_mode(place: Path) -> None:
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    make_folder(shared / "scratch")
    assert (mode(shared), mode(shared / "scratch")) == (0o775, 0o700)
