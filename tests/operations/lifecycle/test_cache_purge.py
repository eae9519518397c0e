"""Deleted objects are purged from the CDN's cache: all of them, after any outage, and nothing else."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.operations.lifecycle import cache_purge
from reelkeeper.operations.removals.takedown import TakedownOrder, take_down
from reelkeeper.settings import Settings
from reelkeeper.store.alerts import alerts
from reelkeeper.store.core import audit
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import audit_events
from tests.doubles.cloudflare import ACCOUNT, ALL, TOKEN, ZONE, CloudflareDouble
from tests.faults.world import World
from tests.worlds import AtFailpoint

PUBLIC = "https://videos.example.com"


class Public:
    """A bucket that is public through the zone of a double."""

    def __init__(self, world: World, double: CloudflareDouble) -> None:
        self.engine, self.double = world.workspace.engine, double
        self.settings = Settings(
            cloudflare_account_id=ACCOUNT,
            cloudflare_api_url=double.url,
            public_url=f"{PUBLIC}/",
            cache_zone_id=ZONE,
            cache_purge_token=TOKEN,
        )

    def delete(self, *keys: str) -> None:
        with transaction(self.engine, "test") as session:
            append(session, [Event("retire", "run", "v")])
            append(session, [Event("purge", "run", "v", detail={"key": key}) for key in keys])

    def catch_up(self, seconds: float = 600) -> int | None:
        return cache_purge.catch_up(self.engine, self.settings, "run", seconds=seconds)

    def forgotten(self) -> list[str]:
        return [url.removeprefix(f"{PUBLIC}/") for request in self.double.forgotten for url in request]

    def alerts(self) -> list[str]:
        with reading(self.engine) as session:
            return [line.rule for line in alerts.listed(session, everything=False, limit=9)]


@pytest.fixture
def public(world: World, cloudflare: CloudflareDouble) -> Public:
    return Public(world, cloudflare)


def test_each_deleted_object_is_forgotten_once_by_its_public_url(public: Public) -> None:
    public.delete("videos/ann/v 1/a+b.mp4", "videos/ann/v2.mp4")
    assert public.catch_up() == 2
    assert public.double.forgotten == [[f"{PUBLIC}/videos/ann/v%201/a%2Bb.mp4", f"{PUBLIC}/videos/ann/v2.mp4"]]
    assert public.catch_up() == 0
    public.delete("videos/ann/v3.mp4")
    assert public.catch_up() == 1
    assert len(public.double.forgotten) == 2


@pytest.mark.parametrize(("days", "forgotten"), [(6.99, 1), (7.01, 0)])
def test_the_first_run_goes_seven_days_back(public: Public, days: float, forgotten: int) -> None:
    told = {"event": "purge", "run_id": "run", "detail": {"key": "videos/1.mp4"}, "previous": "", "digest": ""}
    with transaction(public.engine, "test") as session:
        session.execute(sa.insert(audit_events).values(id=1_000, at=Clock(-days * 86_400), **told))
    assert public.catch_up() == forgotten


def test_many_go_thirty_at_a_time(public: Public) -> None:
    keys = [f"videos/{number}.mp4" for number in range(75)]
    public.delete(*keys)
    assert public.catch_up() == 75
    assert sorted(public.forgotten()) == sorted(keys)
    assert [len(request) for request in public.double.forgotten] == [30, 30, 15]


def test_a_call_that_leaves_some_to_the_next_does_not_say_that_all_is_done(
    public: Public, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_purge, "_MAX_REQUESTS", 1)
    public.delete(*(f"videos/{number}.mp4" for number in range(31)))
    assert public.catch_up() is None
    assert public.catch_up() == 1
    assert len(set(public.forgotten())) == 31


def test_a_call_of_so_many_seconds_begins_no_request_after_them(public: Public) -> None:
    public.delete(*(f"videos/{number}.mp4" for number in range(61)))
    assert public.catch_up(seconds=0) is None
    assert len(public.forgotten()) == 30
    assert public.catch_up() == 31


def test_a_failed_cache_purge_raises_an_alert_and_is_repeated(public: Public) -> None:
    public.double.permissions = ALL - {"Cache Purge: Purge"}
    public.delete("videos/1.mp4")
    assert public.catch_up() is None
    assert public.alerts() == ["cache_not_purged"]
    public.delete("videos/2.mp4")
    public.double.permissions = ALL
    assert public.catch_up() == 2
    assert public.alerts() == []
    assert sorted(public.forgotten()) == ["videos/1.mp4", "videos/2.mp4"]


@pytest.mark.parametrize("point", ["cache.forget.before", "cache.forget.after"])
def test_a_process_that_dies_on_the_way_leaves_nothing_out(
    public: Public, at_failpoint: AtFailpoint, point: str
) -> None:
    def die() -> None:
        raise SystemExit

    public.delete("videos/1.mp4")
    at_failpoint(point, die)
    with pytest.raises(SystemExit):
        public.catch_up()
    assert public.catch_up() == 1
    assert set(public.forgotten()) == {"videos/1.mp4"}


def test_a_takedown_is_forgotten_at_once(public: Public, world: World) -> None:
    world.video("v1")
    found = take_down(
        world.workspace, "v1", TakedownOrder("c", "r", "t"), scratch=Path(world.address.folder) / "scratch"
    )
    assert public.catch_up() == 1
    assert public.forgotten() == [item.key for item in found.objects]


def test_erased_events_do_not_stop_a_cache_purge(public: Public) -> None:
    public.delete("videos/1.mp4", "videos/2.mp4")
    with transaction(public.engine, "test") as session:
        audit.erase(session, [2], "erased-1", run_id="test")
    assert public.catch_up() == 2
    assert public.forgotten() == ["videos/2.mp4"]


def test_without_a_zone_no_cache_is_purged(public: Public) -> None:
    public.delete("videos/1.mp4")
    assert cache_purge.catch_up(public.engine, Settings(), "run") == 0
    assert public.double.asked == []
