"""A customer's life by HTTP only: the commands of docs/api.md, run as they are, while flows run."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from threading import Event
from zipfile import ZipFile

import pytest

from reelkeeper.adapters.providers.local import LocalGenerator
from reelkeeper.model.alerts import EventType
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs import worker
from reelkeeper.operations.lifecycle import notices, outcomes, previews
from reelkeeper.operations.lifecycle.previews import Planning
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import now, reading
from tests.api.served import Served, served
from tests.doubles.receiver import Receiver
from tests.faults.world import World
from tests.policies import put_in_force
from tests.tiers import tiers

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
(SECTION,) = re.findall(r"^## Complete example\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
SETTINGS, *STEPS = re.findall(r"^```sh\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
POLICIES = DEFAULTS.overridden(
    tiers=tiers(free={"retention_days": 1, "notice_days": 1, "keep_days": 30}),
    admission=AdmissionPolicy(low_credits_usd=Decimal("0.03")),
)


class Shell:
    """One shell, in which the lines of the page run one after the other."""

    def __init__(self, server: Served, token: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            ["bash", "-u"],  # noqa: S607  wherever it is
            cwd=folder,
            env={**os.environ, "TOKEN": token, "no_proxy": "127.0.0.1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.run(SETTINGS.replace("http://127.0.0.1:8787", server.url))

    def run(self, lines: str) -> str:
        """Run command lines, each of which must succeed; return their output."""
        assert self.process.stdin
        assert self.process.stdout
        checked = "".join(f"{line}\necho STATUS $?\n" for line in lines.splitlines() if line)
        self.process.stdin.write(f"{checked}echo; echo DONE\n")
        self.process.stdin.flush()
        said = ""
        while (line := self.process.stdout.readline()) != "DONE\n":
            assert line, said
            said += line
        assert set(re.findall(r"STATUS (\d+)", said)) == {"0"}, said
        return said


class Life:
    """Bob, the service that he is a customer of, and its servers."""

    def __init__(self, world: World, folder: Path, shell: Shell, receiver: Receiver) -> None:
        self.world, self.folder, self.shell, self.receiver = world, folder, shell, receiver
        self.engine = world.workspace.engine

    def run(self, lines: str) -> str:
        """Run lines of the page while a worker makes the videos that they ask for."""
        done = Event()

        def work() -> None:
            while not done.wait(0.1):
                worker.work(
                    self.world.workspace,
                    LocalGenerator(self.folder / "images"),
                    worker.Shift(slots=1, seconds=30, until_idle=True),
                    run_id="run",
                    scratch=self.folder / "scratch",
                    limit=lambda: 9,
                )

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            try:
                return self.shell.run(lines)
            finally:
                done.set()
                working.result()

    def told(self) -> list[str]:
        """Deliver the waiting events; return the types of those received."""
        webhooks.deliver(self.engine, allow_private=True, seconds=30)
        return [each.type for each in self.receiver.taken("/live")]

    def night(self) -> dict[str, int]:
        """Plan and give notices, as `expire_videos` does; return the outcomes of the plan's videos."""
        with reading(self.engine) as session:
            as_of = now(session)
        report = previews.expire_videos(Planning(self.engine, as_of, "night"))
        done = Counter[str]()
        with LeaseManager(self.engine) as manager:
            (lease,) = manager.take(["flow/expire_videos"])
            with closing(outcomes.planned(self.engine, report.plan.id, "notify", 500)) as batches:
                for batch in batches:
                    ids = [str(item.video_id) for item in batch]
                    given = notices.carry_out(self.engine, report.plan.id, ids, POLICIES, lease=lease, run_id="night")
                    done.update(outcome.action for outcome in given)
        return dict(done)


@pytest.fixture
def life(sqlite_world: World, tmp_path: Path) -> Iterator[Life]:
    engine, folder = sqlite_world.workspace.engine, tmp_path / "service"
    folder.mkdir()
    put_in_force(engine, tiers=POLICIES.tiers, admission=POLICIES.admission)
    _, token = tokens.create(engine, "the service", tuple(Scope), author="test")
    with Receiver().serving() as receiver, served(sqlite_world, folder) as server:
        _, secret = webhooks.add(engine, receiver.url("/live"), list(EventType), allow_private=True, author="test")
        receiver.secrets["/live"].append(secret)
        yield Life(sqlite_world, folder, Shell(server, token, folder), receiver)


@pytest.mark.long("an API in a process, flows, and curl for each step")
def test_a_customers_whole_life_works_over_http_only(life: Life) -> None:
    signed_up, watched, kept, ran_low, left = STEPS
    assert '"available_microusd":50000' in life.run(signed_up)
    said = life.run(watched)
    assert '"state":"succeeded"' in said
    assert '"counted":1' in said
    assert (life.folder / "fox.mp4").read_bytes()[4:8] == b"ftyp"
    assert life.told() == ["video.published", "job.ended"]
    assert life.night() == {"notified": 1}
    assert life.told()[2:] == ["video.expiring"]
    assert '"times":1' in life.run(kept)
    said = life.run(ran_low)
    assert "restorable_until" in said
    assert '"available_microusd":19887' in said
    told = life.told()[3:]
    assert sorted(told) == ["credits.low", "job.ended", "video.published", "video.retired"]
    assert told[-1] == "video.retired"
    assert '"state":"erased"' in life.run(left)
    with ZipFile(life.folder / "bob.zip") as copy:
        names = copy.namelist()
    assert any(name.endswith(".mp4") for name in names)
    assert accounts.recount(life.engine) == []
    assert not any(life.world.workspace.bucket.pages_of_folder("bob"))
    with reading(life.engine) as session:
        assert audit.verify(session) > 0
