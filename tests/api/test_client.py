"""The Python client against a real server: the command in its own process and port."""

import ast
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import isfunction
from pathlib import Path
from typing import ClassVar
from zipfile import ZipFile

import httpx
import pytest
from inline_snapshot import snapshot

from reelkeeper.client import ATTEMPTS, Client, RequestRefused
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import status
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.spend.limits import SpendLimit
from tests.api.crowd import PNG
from tests.api.served import served
from tests.doubles.receiver import Receiver
from tests.doubles.serving import answering
from tests.faults.world import World
from tests.marks import marked
from tests.operations.asking import claim, make
from tests.policies import put_in_force
from tests.tiers import tiers


@pytest.fixture
def base_url(sqlite_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")  # webhooks of a receiver on this machine
    with served(sqlite_world, tmp_path) as server:
        yield server.url


@pytest.fixture
def client(sqlite_world: World, base_url: str) -> Iterator[Client]:
    _, token = tokens.create(sqlite_world.workspace.engine, "front", tuple(Scope), author="test")
    with Client(base_url, token) as reelkeeper:
        yield reelkeeper


@pytest.mark.long
def test_a_service_does_its_whole_work_through_it(sqlite_world: World, client: Client, base_url: str) -> None:
    engine = sqlite_world.workspace.engine
    assert client.check_quota("ann", 1000)["can_upload"]
    queued = client.ask("ann", {"model": "m", "prompt": "a fox"}, key="k1")
    lease_token = claim(engine, queued["job_id"])
    followed = client.follow(queued["job_id"])
    assert next(followed)["state"] == "running"
    make(engine, queued["job_id"])
    settle.succeed(engine, Attempt(queued["job_id"], lease_token), run_id="run")
    assert [entry["state"] for entry in followed] == ["succeeded"]
    assert client.ask("ann", {"model": "m", "prompt": "a fox"}, key="k2")["status"] == "cached"

    other = client.ask("ann", {"model": "m", "prompt": "a hare"}, key="k3", tag="draft", metadata={"order": "1234"})
    assert client.cancel(other["job_id"])["state"] == "cancelled"
    assert client.job(other["job_id"])["state"] == "cancelled"

    assert client.quote("ann", {"model": "m", "prompt": "a fox"}, tag="draft")["status"] == "cached"
    assert [job["state"] for job in client.jobs(user_id="ann")] == ["cancelled", "succeeded", "succeeded"]
    assert [job["metadata"] for job in client.jobs(state="cancelled")] == [{"order": "1234"}]
    assert [user["id"] for user in client.users()] == ["ann"]
    moves, user = list(client.ledger("ann")), client.user("ann")
    assert sum(move["available_microusd"] for move in moves) == user["available_microusd"]
    assert [move["job_id"] for move in client.ledger("ann", kind="release")] == [other["job_id"]]

    for _ in range(2):
        stored = client.upload(sqlite_world.clip, user_id="ann", video_id="mine", key="k4", tag="final")
        assert stored["state"] == "stored"
    assert [video["tag"] for video in client.videos("ann") if video["id"] == "mine"] == ["final"]
    url = client.video_url("mine")
    assert httpx.get(url, trust_env=False, timeout=60).content == sqlite_world.clip.read_bytes()
    assert client.report_views({"mine": 2, "none": 1}) == 1
    assert client.user("ann")["used_bytes"] >= sqlite_world.clip.stat().st_size

    with pytest.raises(RequestRefused) as refused:
        client.keep_video("mine", user_id="ann", key="k5")
    assert marked(refused.value) == snapshot(
        "409 urn:reelkeeper:not-kept: the tier free does not keep videos longer on request"
    )
    assert (refused.value.status, refused.value.kind) == (409, "urn:reelkeeper:not-kept")
    put_in_force(engine, tiers=tiers(free={"keep_days": 30}))
    kept = [client.keep_video("mine", user_id="ann", key="k5") for _ in range(2)]
    assert kept[0] == kept[1]
    assert kept[0]["times"] == 1

    with pytest.raises(RequestRefused, match="'none'") as refused:
        client.video_url("none")
    assert (refused.value.status, refused.value.kind) == (404, "urn:reelkeeper:not-found")
    with Client(base_url, "rk_wrong") as nobody, pytest.raises(RequestRefused, match="401"):
        nobody.user("ann")


@pytest.mark.long
def test_a_user_comes_and_goes_with_all_that_is_theirs(sqlite_world: World, client: Client, tmp_path: Path) -> None:
    assert client.put_user("bob", "premium")["tier"] == "premium"
    for _ in range(2):  # once for each key
        assert client.give_credits("bob", 2_000_000, key="k1", reason="a gift")["available_microusd"] == 2_000_000
    picture = tmp_path / "fox.png"
    picture.write_bytes(PNG)
    assert client.keep_image(picture) == sha256(PNG).hexdigest()

    for video_id in ("gone", "held", "wrong"):
        client.upload(sqlite_world.clip, user_id="bob", video_id=video_id, key=video_id)
    assert client.delete_video("gone", user_id="bob")["restorable_until"]
    hold_id = client.hold("video", "held", "a dispute", key="k2")
    client.release(hold_id)
    with pytest.raises(RequestRefused) as refused:
        client.release(hold_id)
    assert refused.value.status == 404

    assert list(client.costs("bob")) == []
    client.export_user("bob", tmp_path / "bob.zip")
    with ZipFile(tmp_path / "bob.zip") as copy:
        assert sum(name.endswith(".mp4") for name in copy.namelist()) == 3
    assert not (tmp_path / "bob.zip.partial").exists()
    certificate = client.take_down("wrong", "a court says so")
    assert (certificate["left"], len(certificate["objects"])) == (0, 1)
    under_way = client.erase_user("bob")
    assert under_way["state"] == "under way"
    assert {left["why"] for left in under_way["left"]} == {
        snapshot("an upload URL is still valid: repeat when it has expired")
    }
    client.put_user("eve", "free")
    assert client.erase_user("eve")["state"] == "erased"
    for ask in (client.erase_user, client.user, lambda user: client.export_user(user, tmp_path / "none.zip")):
        with pytest.raises(RequestRefused) as refused:
            ask("eve")
        assert refused.value.status == 404
    assert not list(tmp_path.glob("none.zip*"))


@pytest.mark.long
def test_a_service_gets_the_events_that_it_subscribes_to(sqlite_world: World, client: Client) -> None:
    with Receiver().serving() as receiver:
        added = client.add_webhook(receiver.url("/hook"), ["job.ended"], key="k1")
        receiver.secrets["/hook"].append(added["secret"])
        assert [found["id"] for found in client.webhooks()] == [added["id"]]
        assert client.choose_events(added["id"], ["video.published"])["events"] == ["video.published"]
        receiver.secrets["/hook"].append(client.rotate_webhook(added["id"]))
        client.upload(sqlite_world.clip, user_id="ann", video_id="mine", key="k2")
        for expected in (1, 2):
            webhooks.deliver(sqlite_world.workspace.engine, allow_private=True, seconds=10)
            assert [each.type for each in receiver.taken("/hook")] == ["video.published"] * expected
            assert client.replay_webhook(added["id"], since="2026-01-01T00:00:00Z") == 1
        assert client.choose_events(added["id"], [], enabled=False)["disabled_at"]
        client.remove_webhook(added["id"])
        assert client.webhooks() == []


@pytest.mark.long
def test_an_upload_whose_bytes_are_cut_off_or_not_taken_is_put_again(sqlite_world: World, client: Client) -> None:
    faults = sqlite_world.double.faults
    happens: list[Callable[[str], None]] = [faults.drop_request, faults.drop_reply, partial(faults.fail, status=500)]
    for number, happen in enumerate(happens):
        happen("PutObject")
        stored = client.upload(sqlite_world.clip, user_id="ann", video_id=f"v{number}", key=f"k{number}")
        assert stored["state"] == "stored"


@pytest.mark.long
def test_an_upload_whose_verification_takes_minutes_is_waited_for(
    sqlite_world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LeaseManager(sqlite_world.workspace.engine) as manager:
        taken, naps = manager.take(["video/slow"]), list[float]()

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if sum(naps) >= 120:
                manager.release(taken)

        monkeypatch.setattr(time, "sleep", nap)
        stored = client.upload(sqlite_world.clip, user_id="ann", video_id="slow", key="k1")
    assert (stored["state"], {*naps}) == ("stored", {5.0})


@pytest.mark.long
def test_a_spend_limit_is_told_at_once_and_counted_once(sqlite_world: World, client: Client) -> None:
    engine, limit = sqlite_world.workspace.engine, SpendLimit(scope="user:ann", usd=Decimal(0))
    put_in_force(engine, admission=AdmissionPolicy(spend_limits=(limit,)))
    with pytest.raises(RequestRefused) as refused:
        client.ask("ann", {"model": "m", "prompt": "a fox"}, key="k1")
    assert refused.value.kind == "urn:reelkeeper:spend-limit"
    assert [use.refusals for use in status.gather(engine).money.limits] == [1]


class _CutOnce(BaseHTTPRequestHandler):
    """A server that breaks off its first answer."""

    answers: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(self.answers.pop(0))


@pytest.mark.parametrize(("answers", "kept"), [([b"exp", b"export"], b"export"), ([b"exp"] * ATTEMPTS, None)])
def test_an_export_that_breaks_off_is_asked_for_again_and_never_left_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[bytes], kept: bytes | None
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(_CutOnce, "answers", [*answers])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _CutOnce)
    broken = nullcontext() if kept else pytest.raises(httpx.TransportError)
    with answering(server), Client(f"http://127.0.0.1:{server.server_port}", "rk_any") as client, broken:
        client.export_user("ann", tmp_path / "ann.zip")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([kept] if kept else [])


def test_each_method_of_it_is_used_against_a_server() -> None:
    methods = {name for name, value in vars(Client).items() if isfunction(value) and not name.startswith("_")}
    used = {node.attr for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Attribute)}
    assert methods - used == {"close"}  # which leaving the client calls


@pytest.mark.long
def test_it_follows_a_job_whose_metadata_has_any_line_break(client: Client) -> None:
    """Unicode's line breaks stand as they are in JSON, and end no line of an event stream."""
    order = {"order": "a\u2028b\x85c\x0bd\x0ce\x1cf\u2029g\r\nh"}
    queued = client.ask("ann", {"model": "m", "prompt": "a fox"}, key="k1", metadata=order)
    client.cancel(queued["job_id"])
    assert [entry["metadata"] for entry in client.follow(queued["job_id"])] == [order]
