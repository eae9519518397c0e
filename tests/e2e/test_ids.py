"""Ids of any kind, by CSV, sync, API, export and erasure: nothing is left, and nothing is joined that is two."""

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from sqlmodel import SQLModel

from reelkeeper.adapters.s3.keys import flaw, key_name, parse_key
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.load import Load
from reelkeeper.client import _path
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import users
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.removals.erase import erase
from reelkeeper.operations.videos.export import export
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.core.request_limits import AccessPolicy
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import users as rows
from reelkeeper.store.videos.holds import HoldTerms
from tests.faults.world import World
from tests.odd_ids import NAMED, odd_ids
from tests.operations.layouts import act, catalogue, put
from tests.policies import put_in_force


def lines(names: list[str]) -> list[str]:
    written = io.StringIO()
    csv.writer(written).writerows([("id", "tier", "created_at"), *((name, "free", "") for name in names)])
    return written.getvalue().splitlines(keepends=True)


def known(world: World) -> set[str]:
    with reading(world.workspace.engine) as session:
        return set(session.execute(sa.select(rows.c.id).where(rows.c.pseudonym.is_(None))).scalars())


def cells(world: World) -> Iterator[str]:
    """Read every text of the store, and every text within its JSON."""

    def texts(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from (str(name), *texts(item))
        elif isinstance(value, list):
            for item in value:
                yield from texts(item)
        elif isinstance(value, str):
            yield value

    with reading(world.workspace.engine) as session:
        for table in SQLModel.metadata.sorted_tables:
            for row in session.execute(sa.select(table)):
                yield from texts(list(row))


def pass_through(
    world: World, endpoint: Endpoint, names: list[str], erased: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, prefix = world.workspace, world.address.prefix
    assert users.import_users(workspace.engine, lines(names)).lines == len(names)
    assert known(world) == {"ann", *names}

    in_keys = {f"{name}/{name}.mp4": name for name in names if "/" not in name and not name.startswith(".")}
    in_keys = {
        key: name for key, name in in_keys.items() if flaw(prefix + key) is None and parse_key(prefix, prefix + key)
    }
    assert len(in_keys) > len(names) / 3
    put(endpoint, prefix, dict.fromkeys(in_keys, 3))
    with LeaseManager(workspace.engine) as manager:
        act(workspace, manager.take(["test"])[0])
    assert catalogue(workspace) == {key: (name, name) for key, name in in_keys.items()}
    assert known(world) == {"ann", *names}

    monkeypatch.setattr(Load, "check", lambda _: None)
    _, token = tokens.create(workspace.engine, "a test", tuple(Scope), author="test")
    unlimited = AccessPolicy(requests_a_second=10_000, burst=10_000)
    put_in_force(workspace.engine, access=unlimited)
    state = AppState(workspace, scratch=Path(world.address.folder) / "scratch")
    state.load.limit(unlimited)  # until it reads those in force, a second later
    app = create_app(state)
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False) as client:
        for name in names:
            answer = client.get(_path("users", name))
            assert (answer.status_code, answer.json()["id"]) == (200, name), name
        for name in names[::5]:
            listed = client.get(_path("users", name, "videos")).json()["videos"]
            assert [video["id"] for video in listed] == [name for _ in range(name in in_keys.values())], name
        for key, name in list(in_keys.items())[:20]:
            found = client.get(f"{_path('videos', name)}?user_id={quote(name, safe='')}")
            assert found.status_code == 307, name
            assert quote(key) in found.headers["location"]

    random = Random(1)
    doomed = [*dict.fromkeys([*random.sample(NAMED, erased // 2), *random.sample(names, erased)])][:erased]
    left = {key: (name, name) for key, name in in_keys.items() if name not in doomed}
    hold(workspace.engine, HoldTerms("user", "ann", " and ".join(f"asked by {name!r}" for name in doomed), "front"))
    for name in doomed:
        target = Path(world.address.folder) / "export.zip"
        done = export(workspace, name, target)
        with zipfile.ZipFile(target) as archive:
            assert archive.testzip() is None
            own = [f"videos/{key_name(name)}.mp4" for _ in range(name in in_keys.values())]
            assert ([each for each in archive.namelist() if each.startswith("videos/")], done.missing) == (own, ())
        target.unlink()
    for name in doomed:
        gone = erase(workspace, name, by="front", run_id="erase-1", settings=Settings(), wait_seconds=0)
        assert gone.left == (), (name, gone.left)
    assert known(world) == {"ann", *names} - {*doomed}
    assert catalogue(workspace) == left
    bucket = workspace.bucket
    assert {key for key, found in bucket.stored([prefix + key for key in in_keys]).items() if found} == {
        prefix + key for key in left
    }
    texts = "\n".join(sorted(set(cells(world))))
    standing = "\n".join({*names} - {*doomed})
    for name in doomed:
        for form in (name, repr(name)[1:-1], quote(name, safe=""), key_name(name)):
            if len(form) > 6 and form not in standing:
                assert form not in texts, (name, form)
    assert not {*doomed} - {".", "0", "user", "erased"} & {*texts.splitlines()}
    world.check()


def test_some_dozens_of_odd_ids_stay_what_they_are(
    world: World, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_through(world, endpoint, odd_ids(60, seed=29), 8, monkeypatch)


@pytest.mark.soak  # four minutes of CPU
def test_10_000_odd_ids_stay_what_they_are(world: World, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_through(world, endpoint, odd_ids(10_000, seed=2026), 100, monkeypatch)
