"""Vendors delete what they have of erased users and of videos that were taken down, and the certificate says so."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.adapters.providers.contract import Generators
from reelkeeper.model.jobs import End, JobState, VendorErasure
from reelkeeper.operations.billing import users
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.jobs.settle import cancel
from reelkeeper.operations.removals import at_vendors
from reelkeeper.operations.removals.erase import Erasure, erase
from reelkeeper.operations.removals.takedown import Certificate, TakedownOrder, ask_vendors, certificate, take_down
from reelkeeper.operations.videos.hold import hold, release
from reelkeeper.settings import Settings
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.core.prune_records import KINDS, delete
from reelkeeper.store.tables import alerts, jobs, vendor_erasures, vendor_jobs
from reelkeeper.store.videos.holds import HoldTerms
from tests.adapters.providers.formats import FORMATS, Format
from tests.doubles.fal import FalDouble
from tests.doubles.replicate import ReplicateDouble
from tests.doubles.runway import RunwayDouble
from tests.doubles.vendor import LOST, TOKEN, Vendor
from tests.faults.world import World
from tests.operations.books import DOLLAR
from tests.operations.changes import change
from tests.operations.queue import make_due
from tests.operations.shop import ask, run
from tests.worlds import AtFailpoint

ORDER = TakedownOrder("counsel", "court order 17", "takedown-1")
SAYS = {  # each vendor, once it is asked
    "fal": VendorErasure.DELETED,
    "replicate": VendorErasure.WAITING,
    "runway": VendorErasure.DELETED,
    "openrouter": VendorErasure.KEPT,
    "openai": VendorErasure.DELETED,
    "comfyui": VendorErasure.PARTLY,
}
FAL = pytest.mark.parametrize("format_", ["fal"], indirect=True)
RUNWAY = pytest.mark.parametrize("format_", ["runway"], indirect=True)


@pytest.fixture
def settings(format_: Format, vendor: Vendor) -> Settings:
    return keys(**{format_.connect(vendor).name: vendor})


def keys(**vendors: Vendor) -> Settings:
    """The settings of a process that has the keys of these vendors."""
    found = {
        f"{name}_{what}": value
        for name, each in vendors.items()
        for what, value in (("url", each.url), ("token", TOKEN))
    }
    return Settings(**found, allow_private_addresses=True)  # type: ignore[arg-type]  # addresses and tokens


def down(world: World, video_id: str) -> Certificate:
    return take_down(world.workspace, video_id, ORDER, scratch=Path(world.address.folder) / "scratch")


def gone(world: World, settings: Settings) -> Erasure:
    return erase(world.workspace, "ann", by="front", run_id="erase-1", settings=settings, wait_seconds=0.0)


def catch_up(world: World, settings: Settings, *, after: float = 0.0) -> None:
    """Ask, as the flow does that many seconds later."""
    with transaction(world.workspace.engine, "test") as session:
        for name in ("asked_at", "due_at"):
            column = vendor_erasures.c[name]
            for key, at in session.execute(sa.select(vendor_erasures.c.key, column)).all():
                moved = {name: at - timedelta(seconds=after)}
                session.execute(sa.update(vendor_erasures).where(vendor_erasures.c.key == key).values(moved))
    at_vendors.catch_up(world.workspace.engine, settings, "run")


def states(world: World) -> list[str]:
    with reading(world.workspace.engine) as session:
        return list(session.execute(sa.select(vendor_erasures.c.state).order_by(vendor_erasures.c.key)).scalars())


def firing(world: World) -> list[str]:
    with reading(world.workspace.engine) as session:
        told = sa.select(alerts.c.rule).where(alerts.c.state == "firing", alerts.c.rule.startswith("erasure"))
        return sorted(session.execute(told).scalars())


def answers(world: World) -> list[tuple[str | None, str | None, str]]:
    """What the audit record has of the vendors' answers: the video, the user and the state, the first first."""
    with reading(world.workspace.engine) as session:
        found = [item.event for item in audit.events(session) if item.event.event.startswith("vendor_erase")]
    names = {event.event for event in found if event.detail["state"] == "given_up"}
    assert names <= {"vendor_erase_given_up"}
    assert {event.event for event in found if event.detail["state"] != "given_up"} <= {"vendor_erase"}
    return [(event.video_id, event.user_id, event.detail["state"]) for event in reversed(found)]


def test_each_vendor_is_asked_once_for_a_video_that_was_taken_down_and_the_certificate_has_its_answer(
    format_: Format, vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    kept, video_id = ask(shop, "a dog", "a cat")
    run(shop, generator)
    found = down(shop, video_id)
    assert (found.left, [item.state for item in found.vendors], vendor.erased) == ((), ["waiting"], [])
    found = ask_vendors(shop.workspace.engine, found, settings, "takedown-1")
    name, (item,) = format_.connect(vendor).name, found.vendors
    assert (item.provider, item.state) == (name, SAYS[name])
    made_as = {job_id for job_id, job in vendor.jobs.items() if kept in job["key"] or job["key"] == "a dog"}
    assert made_as  # what was not taken down is there
    assert vendor.erased == ([item.job.rpartition("/")[2]] if item.state == "deleted" else vendor.erased)  # type: ignore[union-attr]  # it has a name
    before = vendor.connections
    catch_up(shop, settings)
    assert vendor.connections == before  # nothing is due
    if isinstance(vendor, ReplicateDouble):
        vendor.has_expired = True
        catch_up(shop, settings, after=60)
    down(shop, video_id)  # a repetition asks for nothing twice
    catch_up(shop, settings)
    final = VendorErasure.DELETED if name == "replicate" else SAYS[name]
    assert answers(shop) == [(video_id, "ann", final)]
    assert certificate(shop.workspace.engine, video_id).vendors[0].state == final
    assert len(vendor.erased) == (final in ("deleted", "partly") and name != "replicate")


@FAL
def test_a_request_that_the_vendor_does_not_take_leaves_what_it_was_asked_to_delete(
    vendor: Vendor, generator: RemoteGenerator, shop: World
) -> None:
    (video_id,) = ask(shop, "a cat")
    run(shop, generator)
    down(shop, video_id)
    vendor.queue = [(429, None)]
    ask(shop, "a dog")
    assert run(shop, generator) == {End.RETRIED: 1}
    assert states(shop) == [VendorErasure.WAITING]


def test_all_attempts_of_an_erased_user_are_deleted_and_known_under_the_pseudonym(
    format_: Format, vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    vendor.end_as("failed")
    ask(shop, "a cow")
    for _ in range(2):
        run(shop, generator)
        make_due(shop.workspace.engine)
    vendor.end_as("succeeded")
    ask(shop, "a cat")
    run(shop, generator)
    if isinstance(vendor, ReplicateDouble):
        vendor.has_expired = True
    done = gone(shop, settings)
    name = format_.connect(vendor).name
    says = VendorErasure.DELETED if name == "replicate" else SAYS[name]
    assert (done.left, [item.state for item in done.vendors]) == ((), [says] * 3)
    assert answers(shop) == [(None, done.pseudonym, says)] * 3
    if name not in ("openrouter", "replicate"):
        assert vendor.jobs == {}


@FAL
def test_a_vendor_that_is_down_delays_nothing_of_ours_and_is_asked_again_with_pauses(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    ask(shop, "a cat")
    run(shop, generator)
    vendor.is_down, before = True, vendor.connections
    done = gone(shop, settings)
    assert (done.left, done.rows["videos"], [item.state for item in done.vendors]) == ((), 1, ["waiting"])
    assert vendor.connections == before + 1
    for number, (pause, asked) in enumerate([(59, 0), (1.5, 1), (118, 0), (2.5, 1), (239, 0), (2, 1)]):
        before = vendor.connections
        catch_up(shop, settings, after=pause)
        assert vendor.connections - before == asked, number
    assert firing(shop) == []
    catch_up(shop, settings, after=86_400)
    assert (firing(shop), states(shop)) == (["erasure_late"], ["waiting"])
    vendor.is_down = False
    catch_up(shop, settings, after=6 * 3600)
    assert (firing(shop), states(shop)) == ([], ["deleted"])
    assert answers(shop) == [(None, done.pseudonym, "deleted")]


@FAL
def test_what_is_not_deleted_in_a_month_is_given_up_with_an_alert_and_a_repeated_takedown_asks_again(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    (video_id,) = ask(shop, "a cat")
    run(shop, generator)
    down(shop, video_id)
    vendor.erasures = [(403, {"detail": "an admin key is needed"})] * 9
    catch_up(shop, settings, after=0.9 * 86_400)
    assert (states(shop), firing(shop)) == (["waiting"], [])
    catch_up(shop, settings, after=29 * 86_400)
    assert (states(shop), firing(shop)) == (["waiting"], ["erasure_late"])
    catch_up(shop, settings, after=0.2 * 86_400)
    assert (states(shop), firing(shop)) == (["given_up"], ["erasure_given_up"])
    catch_up(shop, settings, after=9 * 86_400)
    assert answers(shop) == [(video_id, "ann", "given_up")]
    vendor.erasures = []
    down(shop, video_id)
    catch_up(shop, settings)
    assert answers(shop)[1:] == [(video_id, "ann", "deleted")]
    assert [item.state for item in certificate(shop.workspace.engine, video_id).vendors] == ["deleted"]


@pytest.fixture
def two(tiny_clip: Path) -> Iterator[dict[str, Vendor]]:
    with FalDouble(tiny_clip.read_bytes()).serving() as fal, RunwayDouble(tiny_clip.read_bytes()).serving() as runway:
        yield {"fal": fal, "runway": runway}


def test_a_vendor_that_is_down_does_not_hold_up_another(two: dict[str, Vendor], shop: World) -> None:
    for number, (name, each) in enumerate(two.items()):
        ask(shop, *(f"cat {number} of {name} {each.url}" for number in range(4 - number)))
        connected = RemoteGenerator(FORMATS[name].connect(each), model=FORMATS[name].model, poll_seconds=0.02)
        run(shop, Generators.alone(connected))  # type: ignore[arg-type]  # as `work` takes them
    two["fal"].is_down, before = True, two["fal"].connections
    done = gone(shop, keys(**two))
    assert {(item.provider, item.state) for item in done.vendors} == {("fal", "waiting"), ("runway", "deleted")}
    assert (len(two["runway"].erased), two["fal"].connections - before) == (3, 3)


@FAL
def test_a_process_without_the_vendors_key_leaves_it_to_one_that_has_it(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    ask(shop, "a cat")
    run(shop, generator)
    done, before = gone(shop, Settings()), vendor.connections
    assert (done.left, [item.state for item in done.vendors]) == ((), ["waiting"])
    catch_up(shop, Settings(), after=2 * 86_400)
    assert (vendor.connections, firing(shop)) == (before, ["erasure_late"])
    catch_up(shop, settings)
    assert (states(shop), firing(shop)) == (["deleted"], [])


@FAL
@pytest.mark.parametrize("changes", [{"ended_at": None}, {"state": JobState.PARKED}])
def test_nothing_is_asked_of_a_job_that_has_not_ended(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings, changes: dict[str, str | None]
) -> None:
    (video_id,) = ask(shop, "a cat")
    run(shop, generator)
    down(shop, video_id)
    table = jobs if "state" in changes else vendor_jobs
    with reading(shop.workspace.engine) as session:
        before = {name: session.execute(sa.select(table.c[name])).scalar_one() for name in changes}
    change(shop, table, **changes)
    catch_up(shop, settings)
    assert (states(shop), vendor.erased) == (["waiting"], [])
    change(shop, table, **before)
    catch_up(shop, settings)
    assert states(shop) == ["deleted"]


@FAL
def test_a_job_that_we_gave_up_is_deleted_once_it_is_over_at_its_vendor(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.looks = 10**6
    (job_id,) = ask(shop, "a cat")
    vendor.queue = [LOST]
    run(shop, generator)
    monkeypatch.setattr(vendor, "cancel", lambda _: None)  # it is too late
    cancel(shop.workspace.engine, job_id, run_id="ann")
    make_due(shop.workspace.engine)
    run(shop, generator)
    done = gone(shop, settings)
    assert (done.left, [item.state for item in done.vendors]) == ((), ["waiting"])
    vendor.looks = 0
    catch_up(shop, settings, after=60)
    assert (states(shop), vendor.erased) == (["deleted"], ["p1"])


@RUNWAY
def test_a_job_whose_answer_was_lost_cannot_be_named_and_is_certified_so(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    vendor.queue = [LOST]
    (job_id,) = ask(shop, "a cat")
    run(shop, generator)
    cancel(shop.workspace.engine, job_id, run_id="ann")
    make_due(shop.workspace.engine)
    run(shop, generator)
    done = gone(shop, settings)
    assert [(item.job, item.state) for item in done.vendors] == [(None, "unnamed")]
    assert vendor.erased == []


@FAL
def test_a_legal_hold_keeps_a_vendors_copy_until_it_ends(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    (video_id,) = ask(shop, "a cat")
    run(shop, generator)
    placed = hold(shop.workspace.engine, HoldTerms("video", video_id, "evidence", "test", is_legal=True))
    down(shop, video_id)
    gone(shop, settings)
    catch_up(shop, settings, after=40 * 86_400)
    assert (states(shop), vendor.erased, firing(shop)) == (["waiting"], [], [])
    release(shop.workspace.engine, placed.id, author="test")
    catch_up(shop, settings)
    assert vendor.erased == ["p1"]


@FAL
def test_a_freeze_stops_vendors_deletions_but_for_takedowns(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    ask(shop, "a cat", "a dog")
    run(shop, generator)
    gone(shop, Settings())
    users.put(shop.workspace.engine, "ann", "free", by="front")
    users.give(shop.workspace.engine, "ann", DOLLAR, "again", by="front")
    (video_id,) = ask(shop, "a fox")
    run(shop, generator)
    freeze(shop.workspace.engine, by="test", reason="an alarm")
    down(shop, video_id)
    catch_up(shop, settings)
    assert (sorted(states(shop)), vendor.erased) == (["deleted", "waiting", "waiting"], ["p3"])
    thaw(shop.workspace.engine, by="test")
    catch_up(shop, settings)
    assert (states(shop), len(vendor.erased)) == (["deleted"] * 3, 3)


@FAL
@pytest.mark.parametrize(
    "point", ["vendor_erase.ask.before", "vendor_erase.ask.after", "vendor_erase.answer.before_commit"]
)
def test_a_process_that_dies_while_it_asks_leaves_nothing_out(
    vendor: Vendor,
    generator: RemoteGenerator,
    shop: World,
    settings: Settings,
    at_failpoint: AtFailpoint,
    point: str,
) -> None:
    def die() -> None:
        raise SystemExit

    (video_id,) = ask(shop, "a cat")
    run(shop, generator)
    down(shop, video_id)
    at_failpoint(point, die)
    with pytest.raises(SystemExit):
        catch_up(shop, settings)
    catch_up(shop, settings, after=60)
    assert vendor.erased == ["p1"]
    assert states(shop) == ["deleted" if point.endswith("ask.before") else "absent"]


@RUNWAY
def test_what_delays_an_erasure_does_not_delay_the_vendors(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    ask(shop, "a cat")
    run(shop, generator)
    vendor.queue = [LOST]
    ask(shop, "a dog")
    run(shop, generator)
    done = gone(shop, settings)
    assert [bool(done.left), sorted(item.state for item in done.vendors)] == [True, ["deleted", "waiting"]]


@RUNWAY
def test_what_was_begun_while_a_user_was_being_erased_is_deleted_too(
    generator: RemoteGenerator, shop: World, settings: Settings, at_failpoint: AtFailpoint
) -> None:
    ask(shop, "a cat")
    at_failpoint("erase.begin.after_commit", lambda: run(shop, generator))
    assert [item.state for item in gone(shop, settings).vendors] == ["deleted"]


@FAL
def test_an_awaited_answer_keeps_the_records_that_it_needs_and_the_certificate_outlives_them(
    vendor: Vendor, generator: RemoteGenerator, shop: World, settings: Settings
) -> None:
    (video_id,) = ask(shop, "a cat")
    run(shop, generator)
    down(shop, video_id)
    change(shop, jobs, finished_at=Clock(-100 * 86_400))

    def prune() -> int:
        with transaction(shop.workspace.engine, "test") as session:
            session.execute(sa.update(jobs).values(video_id=jobs.c.video_id))
            cutoff = session.execute(sa.select(Clock(-90 * 86_400))).scalar_one()
            return sum(
                delete(session, kind, cutoff, 100)
                for kind in KINDS
                if kind.table in (vendor_erasures, vendor_jobs, jobs)
            )

    assert prune() == 0
    catch_up(shop, settings)
    assert prune() == 3
    (item,) = certificate(shop.workspace.engine, video_id).vendors
    assert (item.provider, item.state, vendor.erased) == ("fal", "deleted", ["p1"])
