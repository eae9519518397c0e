"""`simulate lifecycle`: its bills equal those of `bill`, and its regret that of a store run night by night."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.contract import CHECKS
from reelkeeper.model import Action, SearchTotals, Video
from reelkeeper.model.money import Metric, Used
from reelkeeper.operations.billing.metering import charge_month
from reelkeeper.operations.core.policy_document import read
from reelkeeper.operations.core.workspace import note_trial, open_bucket
from reelkeeper.operations.lifecycle.policies import effect_of
from reelkeeper.operations.lifecycle.previews import plans_service_keys
from reelkeeper.operations.reports.report import gather
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.wording import contract_gate
from reelkeeper.rules.lifecycle import lifecycle, selection, worth
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.selection import MOST_TRIED, TRIED
from reelkeeper.rules.lifecycle.transcode import IN_PLACE, MAX_BYTES_IN_PLACE, Recipe
from reelkeeper.rules.lifecycle.worth import Worth
from reelkeeper.rules.policies import DEFAULTS, Policies
from reelkeeper.settings import Settings
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing.usage import record
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import open_engine, open_store, transaction
from reelkeeper.store.forecast.sampling import note_stored
from reelkeeper.store.tables import blobs, daily_views, holds, users, videos, view_days
from reelkeeper.store.videos.videos import live_videos
from tests.cli.conftest import Run
from tests.policies import put_in_force

Ask = Callable[..., Any]
DAY = timedelta(days=1)
SHIPPED = DEFAULTS.overridden(recipe=Recipe(placement="auto"))  # with a new store
STRICT = "lifecycle: {retire_below_views: 3, retire_after_days: 14, compress_after_days: 3, grace_days: 3}\n"


def today() -> date:
    return datetime.now(UTC).date()


def start() -> date:
    """The first day of the month before the last."""
    return ((today().replace(day=1) - DAY).replace(day=1) - DAY).replace(day=1)


class Clip(NamedTuple):
    """A video of the history, and its views."""

    id: str
    user_id: str
    created_at: datetime
    size_bytes: int
    codec: str
    is_ours: bool
    viewed: dict[date, int]


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def history() -> list[Clip]:
    """Draw 60 videos of five users, made from 100 days before the start until today, half of them large."""
    draw = Random(7)
    found = []
    for number in range(60):
        made = start() + draw.randrange(-100, (today() - start()).days) * DAY
        created_at = midnight(made) + timedelta(seconds=draw.randrange(1, 86_400))
        size = draw.choice([draw.randrange(10**5, 10**7), draw.randrange(10**9, 6 * 10**10)])
        life = [made + n * DAY for n in range((today() - made).days)]
        days = draw.sample(life, min(len(life), draw.choice([0, 1, 3, 9])))
        viewed = {day: draw.randrange(1, 4) for day in days}
        codec = draw.choice(["h264", "h264", "av1"])
        clip = Clip(f"v{number:02}", f"u{draw.randrange(5)}", created_at, size, codec, draw.random() > 0.5, viewed)
        found.append(clip)
    return found


def prepare(engine: Engine) -> None:
    """Write the users, a hold on one of them, and the days with complete views, all but one."""
    with transaction(engine, "test") as session:
        tiers = ["free", "premium", "pro", None, "free"]
        session.execute(sa.insert(users), [{"id": f"u{n}", "tier": tier} for n, tier in enumerate(tiers)])
        hold = {"id": "h1", "scope": "user", "subject": "u4", "reason": "a dispute", "author": "eve"}
        session.execute(sa.insert(holds).values(created_at=midnight(start()) - DAY, **hold))


def upload(session: Session, clips: list[Clip]) -> None:
    for clip in clips:
        made = {"id": clip.id, "user_id": clip.user_id, "state": "live", "created_at": clip.created_at}
        session.execute(sa.insert(videos).values(generation=1, **made))
        add_blob(session, clip.id, 1, clip.size_bytes, clip.codec, clip.created_at, is_ours=clip.is_ours)


def add_blob(
    session: Session, video_id: str, generation: int, size: int, codec: str, at: datetime, *, is_ours: bool
) -> None:
    row = {"video_id": video_id, "generation": generation, "key": f"{video_id}/g{generation}", "state": "live"}
    row |= {"size_bytes": size, "codec": codec, "stored_at": at, "is_ours": is_ours}
    blob_id = session.execute(
        sa.insert(blobs).values(recipe="r" if generation > 1 else None, **row).returning(blobs.c.id)
    ).scalar_one()
    session.execute(sa.update(videos).where(videos.c.id == video_id).values(blob_id=blob_id, generation=generation))


def view(session: Session, clips: list[Clip], day: date) -> None:
    rows = [{"video_id": clip.id, "day": day, "views": clip.viewed[day]} for clip in clips if day in clip.viewed]
    if rows:
        session.execute(sa.insert(daily_views), rows)
    if day != start() - 5 * DAY:
        session.execute(sa.insert(view_days), [{"day": day}])


class Nights:
    """A store to which a policy is applied each night, and which is metered each day."""

    def __init__(self, engine: Engine, policies: Policies, clips: list[Clip]) -> None:
        self.engine, self.policies, self.clips = engine, policies, clips
        self.lost, self.of_users = Counter[str](), set[str]()

    def play(self) -> None:
        prepare(self.engine)
        with transaction(self.engine, "test") as session:
            upload(session, [clip for clip in self.clips if clip.created_at < midnight(start())])
            for back in range(100, 0, -1):
                view(session, self.clips, start() - back * DAY)
        for place in range((today() - start()).days):
            self._day(start() + place * DAY)
        for month in (start(), (start() + 31 * DAY).replace(day=1)):
            charge_month(self.engine, PriceBook(), month, today())

    def _day(self, day: date) -> None:
        operations = Counter[str]()
        with transaction(self.engine, "test") as session:
            note_stored(session, day)
            due = sa.and_(blobs.c.state == "retired", blobs.c.purge_after <= midnight(day))
            session.execute(sa.update(blobs).where(due).values(state="gone"))
            judge = lifecycle.judging(
                self.policies.lifecycle,
                self.policies.tiers,
                midnight(day),
                "",
                frozenset(self.policies.recipe.skip_codecs),
                partial(worth.unopened, "h264", self.policies.recipe.payback, SearchTotals()),
            )
            judged = map(judge, list(live_videos(session, midnight(day))))
            place = self.policies.recipe.place
            for verdict in selection.fitting(judged, place, keeps_contract=True):
                if verdict.action is Action.RETIRE:
                    self._retire_blob(session, verdict.video, day)
                    mine = videos.c.id == verdict.video.id
                    session.execute(sa.update(videos).where(mine).values(state="retired", retired_at=midnight(day)))
                elif verdict.action is Action.COMPRESS:
                    self._retire_blob(session, verdict.video, day)
                    (figure,) = (figure for figure in verdict.figures if isinstance(figure, Worth))
                    left = verdict.video.size_bytes - figure.saved_bytes
                    is_ours = verdict.video.is_ours or place != IN_PLACE
                    add_blob(session, verdict.video.id, 2, left, "h264", midnight(day), is_ours=is_ours)
                    operations.update({"PutObject": 1, "GetObject": 3})
            new = [clip for clip in self.clips if clip.created_at.date() == day]
            upload(session, new)
            operations["PutObject"] += len(new)
            live = set(session.scalars(sa.select(videos.c.id).where(videos.c.state == "live")))
            for clip in self.clips:
                viewed = clip.viewed.get(day, 0)
                if clip.id in live:
                    operations["GetObject"] += viewed
                elif viewed:
                    self.lost[clip.id] += viewed
                    self.of_users.add(clip.user_id)
            view(session, self.clips, day)
            note_stored(session, day)
            record(
                session,
                [
                    Used(day, Metric.OPERATIONS, count, resource=action, storage_class="standard")
                    for action, count in operations.items()
                ],
            )

    def _retire_blob(self, session: Session, video: Video, day: date) -> None:
        grace = self.policies.lifecycle.grace
        is_ours = session.execute(sa.select(blobs.c.is_ours).where(blobs.c.id == video.blob_id)).scalar_one()
        until = midnight(day) + (grace.days if is_ours else grace.service_days) * DAY
        values = {"state": "retired", "retired_at": midnight(day), "purge_after": until}
        session.execute(sa.update(blobs).where(blobs.c.id == video.blob_id).values(values))


@pytest.fixture
def catalogue(configured: Settings) -> list[Clip]:
    """The history as it is where no policy was ever at work, in a bucket that has passed the contract."""
    clips, engine = history(), open_engine(f"sqlite:///{configured.store_file}")
    prepare(engine)
    at = str(configured.endpoint_url), configured.bucket
    with transaction(engine, "test") as session:
        deployment.record_contract(session, *at, CHECKS, (), run_id="doctor")
        upload(session, clips)
        for place in range((today() - start()).days + 100):
            view(session, clips, start() + (place - 100) * DAY)
    engine.dispose()
    return clips


@pytest.mark.long
def test_bills_and_regret_are_those_of_a_store_in_which_every_night_was_run(
    catalogue: list[Clip], ask: Ask, configured: Settings, migrated_file: Path, tmp_path: Path
) -> None:
    document = tmp_path / "strict.yaml"
    document.write_text(STRICT)
    found = ask("simulate", "lifecycle", "--policy", document, "--from", start(), "--months", 0, "--no-uploads")
    kept, in_force, strict = found["courses"]
    assert kept["regret"]["views"] == 0
    assert strict["regret"]["views"] > in_force["regret"]["views"] > 0
    for course, policies in ((in_force, read("", "", SHIPPED)), (strict, read(STRICT, "", SHIPPED))):
        for beside in configured.state_dir.glob("store.sqlite3*"):
            beside.unlink()
        shutil.copyfile(migrated_file, configured.store_file)
        engine = open_engine(f"sqlite:///{configured.store_file}")
        nights = Nights(engine, policies, catalogue)
        nights.play()
        engine.dispose()
        regret = course["regret"]
        assert (regret["views"], regret["videos"]) == (nights.lost.total(), len(nights.lost))
        assert regret["users"] == len(nights.of_users)
        for month in course["months"][:2]:
            billed = ask("bill", "--month", month["month"][:7], "--by", "service")
            assert sum(Decimal(row["BilledCost"]) for row in billed) == Decimal(month["r2_usd"])
        assert Decimal(course["months"][1]["r2_usd"]) > 1


@pytest.mark.usefixtures("catalogue")
def test_a_person_sees_the_policies_side_by_side_and_what_is_assumed(reelkeeper: Run, tmp_path: Path) -> None:
    document, picture = tmp_path / "strict.yaml", tmp_path / "months.svg"
    document.write_text(STRICT)
    said = reelkeeper(
        *("simulate", "lifecycle", "--policy", document, "--months", 1, "--from", start(), "--picture", picture)
    ).stdout
    for text in ("keep everything", "in force (version 0)", "strict", "Regret", "Assumptions", "are unknown"):
        assert text in said
    assert f"{today():%Y-%m}" in said
    assert re.search(r"strict: \$[0-9.,]+, \d", picture.read_text())


@pytest.mark.usefixtures("catalogue")
def test_infrequent_access_is_tried_beside_standard(ask: Ask) -> None:
    found = ask("simulate", "lifecycle", "--months", 1, "--infrequent-after", 30)
    names = [course["policy"] for course in found["courses"]]
    assert names == snapshot(
        ["keep everything", "in force (version 0)", "in force (version 0), Infrequent Access after 30 days"]
    )
    standard, cold = (course["months"] for course in found["courses"][1:])
    assert Decimal(cold[1]["r2_usd"]) != Decimal(standard[1]["r2_usd"])
    assert [month["retired"] for month in cold] == [month["retired"] for month in standard]
    assert found["unplayable_views"] is None


@pytest.fixture
def of_today(configured: Settings) -> int:
    """Twenty old videos at the service's keys, and ten of today, all of one size; return all their bytes."""
    engine, now = open_engine(f"sqlite:///{configured.store_file}"), datetime.now(UTC)
    made = [now - 200 * DAY] * 20 + [max(now - DAY / 240, midnight(today()))] * 10
    clips = [Clip(f"t{n:02}", "ann", at, 1_000_000, "h264", is_ours=False, viewed={}) for n, at in enumerate(made)]
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        upload(session, clips)
    engine.dispose()
    return 30_000_000


def test_a_simulation_starts_with_every_live_video_also_those_of_today(
    ask: Ask, reelkeeper: Run, of_today: int, configured: Settings
) -> None:
    with open_store(configured) as engine, open_bucket(configured) as bucket:
        note_trial(engine, bucket, begins=True)  # in which plans have the service's keys
    found = ask("simulate", "lifecycle", "--months", 0, "--no-uploads")
    said = reelkeeper("simulate", "lifecycle", "--months", 2, "--no-uploads").stdout
    assert (found["videos"], found["stored_bytes"]) == (30, of_today)
    assert [month["stored_bytes"] for month in found["courses"][0]["months"]][:1] == [of_today]
    assert re.findall(r"knows, ([\d.]+) MB", said) == [f"{of_today / 1e6:.1f}"]  # now, not at the end
    assert found["unknown_views"] == 20  # of those of today no day is missing
    assert found["courses"][1]["due_at_once"] == [0, 20]
    assert set(found["courses"][1]["exceeds"]) == {"max_percent", "max_percent_in_24h"}
    later = ask("simulate", "lifecycle", "--months", 0, "--no-uploads", "--infrequent-after", 30)["courses"]
    assert [course["exceeds"] for course in later] == [{}, *[found["courses"][1]["exceeds"]] * 2]
    assert re.findall(r"max_\w+: (\d+)", said) == ["20", "20"]
    assert "-0.00" not in said
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    past = ask("simulate", "lifecycle", "--months", 0, "--no-uploads", "--from", yesterday)
    assert (past["videos"], past["courses"][1]["due_at_once"]) == (20, [0, 20])


def test_without_a_passed_contract_nothing_is_done_at_the_services_keys_as_in_plans(ask: Ask, of_today: int) -> None:
    found = ask("simulate", "lifecycle", "--months", 2, "--no-uploads")
    assert (found["service_keys"], found["stored_bytes"]) == (False, of_today)
    assert found["courses"][1]["due_at_once"] == [0, 0]
    assert found["courses"][1]["months"] == found["courses"][0]["months"]


@pytest.fixture
def cold(configured: Settings) -> Iterator[Engine]:
    """Cold videos of 50 KB to 10 GB at the service's keys and ours, half of them viewed once; results go in place."""
    engine, now = open_engine(f"sqlite:///{configured.store_file}"), datetime.now(UTC)
    sizes = [50_000 * 2**n for n in range(12)] + [360_000 + 20_000 * n for n in range(24)]
    sizes += [10**9, MAX_BYTES_IN_PLACE, MAX_BYTES_IN_PLACE + 1]
    kinds = product(sizes, ("h264", "mpeg4"), (True, False), ({today() - 9 * DAY: 1}, {}))
    clips = [
        Clip(f"c{n:03}", "ann", now - 200 * DAY, size, codec, is_ours=is_ours, viewed=viewed)
        for n, (size, codec, is_ours, viewed) in enumerate(kinds)
    ]
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="pro"))
        upload(session, clips)
        for back in range(1, 60):
            view(session, clips, today() - back * DAY)
        session.execute(sa.update(blobs).values(key=configured.prefix + blobs.c.key))
    unlimited = LifecyclePolicy(compress_usd_per_day=None)
    limits = BlastRadius(max_user_percent=100)
    put_in_force(engine, recipe=Recipe(placement="in_place"), lifecycle=unlimited, limits=limits)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("place", ["trial", "tested", "failed", "failed trial", "untested"])
def test_the_first_night_and_the_effect_of_a_document_are_what_plans_have(
    ask: Ask, reelkeeper: Run, configured: Settings, cold: Engine, place: str
) -> None:
    at = str(configured.endpoint_url), configured.bucket
    failed = set(sorted(CHECKS)[:1]) if place.startswith("failed") else set[str]()
    with transaction(cold, "test") as session:
        if place in {"tested", "failed", "failed trial"}:
            deployment.record_contract(session, *at, set(CHECKS) - failed, failed, run_id="doctor")
    if place.endswith("trial"):
        with open_bucket(configured) as bucket:
            note_trial(cold, bucket, begins=True)
    reports = [ask("plan", flow) for flow in ("tier_storage", "expire_videos")]
    plans = [report["plan"] for report in reports]
    rules = [rule for report in reports for rule in report["planned"] if rule["rule"] != TRIED]  # none of these is due
    planned = [sum(rule["objects"] for rule in rules if rule["action"] == of) for of in ("compress", "retire")]
    assert 0 < sum(plan["compress"]["objects"] for plan in plans) - planned[0] <= MOST_TRIED
    course = ask("simulate", "lifecycle", "--months", 0)["courses"][1]
    assert course["due_at_once"] == planned
    assert planned[0] > 0 < planned[1]
    is_gated = place in {"failed", "failed trial", "untested"}
    of_own_rules = [is_gated, False]  # none is past its retention
    assert ["contract_not_tried" in plan["kept"] for plan in plans] == of_own_rules
    if place.endswith("trial"):
        as_of = datetime.now(UTC)
        trial = gather(cold, as_of.date().replace(day=1), as_of).trial
        assert trial
        assert bool(trial.gate) == is_gated
    none = DEFAULTS.overridden(lifecycle=LifecyclePolicy(compress_below_views=None, retire_below_views=None))
    effect = effect_of(cold, none, service_keys=plans_service_keys(cold, configured))
    assert [effect.no_longer_compressed, effect.newly_kept.objects] == planned
    saved = sum(rule["saving_microusd"] or 0 for rule in rules)
    assert effect.saved_microusd_a_month == pytest.approx(-saved, abs=400)  # each is rounded
    document = configured.state_dir / "in_force.yaml"
    document.write_text(reelkeeper("policy", "show").stdout)
    said = " ".join(reelkeeper("policy", "check", document).stdout.split())
    assert (contract_gate(failed) in said) == is_gated


def test_in_a_bucket_within_the_free_allowance_no_encode_pays_and_each_of_them_says_so(
    ask: Ask, reelkeeper: Run, configured: Settings, cold: Engine
) -> None:
    with transaction(cold, "test") as session:
        at = str(configured.endpoint_url), configured.bucket
        deployment.record_contract(session, *at, set(CHECKS), set[str](), run_id="doctor")
        session.execute(sa.update(blobs).where(blobs.c.size_bytes >= 10**9).values(size_bytes=5 * 10**6))
    plan = ask("plan", "tier_storage")["plan"]
    assert (plan["compress"]["objects"], "cold_compress" in plan["kept"]) == (0, False)
    assert plan["kept"]["does_not_pay"] > 0 < plan["retire"]["objects"]
    assert ask("simulate", "lifecycle", "--months", 0)["courses"][1]["due_at_once"] == [0, plan["retire"]["objects"]]
    none = DEFAULTS.overridden(lifecycle=LifecyclePolicy(compress_below_views=None))
    assert effect_of(cold, none, service_keys=True).no_longer_compressed == 0
    assert "does_not_pay" in reelkeeper("videos", "why", "c088").stdout
    with transaction(cold, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.size_bytes == 5 * 10**6).values(size_bytes=10**9))
    assert ask("plan", "tier_storage")["plan"]["compress"]["objects"] > 0


@pytest.mark.usefixtures("configured")
def test_an_empty_catalogue_has_nothing_to_tell_apart(ask: Ask, reelkeeper: Run) -> None:
    kept, in_force = ask("simulate", "lifecycle", "--months", 1)["courses"]
    assert in_force["months"] == kept["months"]
    assert "10 GB" in reelkeeper("simulate", "lifecycle", "--months", 1).stdout, "what R2 does not bill"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--from", "soon"], 2, "--from"),
        (["--from", "2999-01-01"], 2, "--from"),
        (["--picture", "months.gif"], 2, "--picture"),
        (["--picture", "none/months.svg"], 2, "--picture"),
        (["--policy", "nowhere.yaml"], 9, "nowhere.yaml"),
    ],
)
@pytest.mark.usefixtures("configured")
def test_invalid_options_are_refused(reelkeeper: Run, words: list[str], code: int, said: str) -> None:
    assert said in " ".join(reelkeeper("simulate", "lifecycle", *words, exit_code=code).output.replace("│", "").split())
