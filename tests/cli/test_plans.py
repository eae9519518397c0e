"""`plan --show`: totals cover a whole large plan, however few items are listed."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from getpass import getuser
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import Misconfigured
from reelkeeper.model import Action, Counts, Outcome, Verdict, Video
from reelkeeper.model.document import Table
from reelkeeper.operations.lifecycle import plans as planning
from reelkeeper.operations.lifecycle.plan_document import document
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.policies import DEFAULTS, TERMS, terms_in
from reelkeeper.settings import Settings
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import now, open_store, reading, transaction
from reelkeeper.store.lifecycle.plan_writer import LEFT, add_items, add_verdicts, begin_plan
from reelkeeper.store.lifecycle.plans import begin_applying, note_refusal, record_outcomes, refuse_plan
from reelkeeper.store.tables import blobs, plans
from reelkeeper.store.videos.conditions import CLAIM_TIMEOUT
from tests.cli.conftest import Run
from tests.doubles.prefect_api import PrefectDouble
from tests.doubles.r2 import R2Double
from tests.policies import put_in_force
from tests.reading import TIME, as_read
from tests.tiers import tiers

AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)
ITEMS = 1_200
PLAN = re.compile(r"\b[0-9a-f]{12}\b")


def judged() -> Iterator[Verdict]:
    for n in range(ITEMS):
        video = Video(f"v{n}", "ann", "free", AS_OF, 0, False, 1_000_000, "h264", None, n + 1, 1)
        yield Verdict(video, Action.COMPRESS if n < 100 else Action.RETIRE, "cold")


@pytest.fixture(autouse=True)
def stored(configured: Settings, double: R2Double) -> None:
    """Store an object under the prefix, without which the folders of other tests in the bucket would be named."""
    double.client.put_object(Bucket=configured.bucket, Key=f"{configured.prefix}theirs", Body=b"theirs")


@pytest.fixture
def plan_id(configured: Settings) -> str:
    with open_store(configured) as engine:
        plan = begin_plan(engine, "tier_storage", {}, AS_OF, "run")
        add_verdicts(engine, plan, judged(), lambda _: "cold", lambda _: (1_000, 2_000), segment)
    return plan


def segment(verdict: Verdict) -> str | None:
    return "drafts" if verdict.video.id == "v0" else None


def test_a_plan_made_by_the_defaults_says_whether_they_are_still_in_force(configured: Settings) -> None:
    told = DEFAULTS.tiers.as_defaults(DEFAULTS.lifecycle.retire_after_days)
    terms = terms_in(DEFAULTS, TERMS["tier_storage"])
    with open_store(configured) as engine:
        plan = begin_plan(engine, "tier_storage", terms, AS_OF, "run")
        add_verdicts(engine, plan, judged(), lambda _: "cold", lambda _: (1_000, 2_000), segment)
        summary = planning.load(engine, plan).plan
        assert told in list(planning.remarks(engine, summary))
        version = put_in_force(engine, lifecycle=LifecyclePolicy(retire_after_days=60))
        since = list(planning.remarks(engine, summary))
    assert told not in since
    assert [remark for remark in since if remark.endswith(f" {version}.")]


def test_what_waits_for_the_next_run_is_told_with_the_limits_that_the_plan_was_made_under(
    reelkeeper: Run, configured: Settings
) -> None:
    with open_store(configured) as engine:
        plan = begin_plan(engine, "expire_videos", {}, AS_OF, "run", {"max_user_percent": 12.5, "always_allowed": 7})
        add_verdicts(engine, plan, judged(), lambda _: "cold", lambda _: (1_000, 2_000))
        with transaction(engine, "test") as session:
            session.execute(sa.update(plans).where(plans.c.id == plan).values(kept={LEFT: 4}))
    told = " ".join(reelkeeper("plan", "--show", plan).output.split())
    assert re.findall(r"limits\.(\w+) \(([\d.]+)", told) == [("max_user_percent", "12.5"), ("always_allowed", "7")]


def test_a_plan_that_limits_would_stop_is_listed_as_one_that_was_not_tried(
    reelkeeper: Run, configured: Settings, plan_id: str
) -> None:
    with open_store(configured) as engine, transaction(engine, "test") as session:
        note_refusal(session, plan_id, "theirs")
    assert "would" in reelkeeper("plan", "--list").output
    with open_store(configured) as engine, transaction(engine, "test") as session:
        assert refuse_plan(session, plan_id, "theirs")
    assert "would" not in reelkeeper("plan", "--list").output


def test_a_plan_that_tries_something_is_listed_with_what_it_tries(
    ask: Callable[..., Any], configured: Settings
) -> None:
    usual, limits = terms_in(DEFAULTS, TERMS["expire_videos"]), DEFAULTS.limits.model_dump(mode="json")
    longer = usual | {"tiers": tiers(free={"retention_days": 60}).model_dump(mode="json")}
    with open_store(configured) as engine:
        with reading(engine) as session:
            today = now(session)
        ids = [
            begin_plan(engine, "expire_videos", under, as_of, f"run{n}", given)
            for n, (under, as_of, given) in enumerate(
                (
                    (usual, today, limits),
                    (longer, today, limits),
                    (usual, today, limits | {"always_allowed": 9}),
                    (usual, today + timedelta(days=40), limits),
                )
            )
        ]
    listed = {line["id"]: line["what_if"] for line in ask("plan", "--list")}
    later = f"{today + timedelta(days=40):%Y-%m-%d}"
    tried = [listed[one].split()[-1:] for one in ids]
    assert tried == [[], ["tiers.free.retention_days=60"], ["limits.always_allowed=9"], [later]]


def test_items_are_shown_by_segment_with_their_dollars(reelkeeper: Run, ask: Callable[..., Any], plan_id: str) -> None:
    said = reelkeeper("plan", "--show", plan_id).output
    assert as_read(said, only="drafts", plan=plan_id, at=TIME) == snapshot(
        "Of them by segment `drafts`: cold: 1 to compress, 1.0 MB, $0.0010 a month."
    )
    items = ask("plan", "--show", plan_id)["items"]
    assert [item["segment"] for item in items if item["video_id"] in ("v0", "v1")] == ["drafts", None]


def test_all_of_a_large_plan_is_counted_and_priced(reelkeeper: Run, ask: Callable[..., Any], plan_id: str) -> None:
    said = reelkeeper("plan", "--show", plan_id, "--limit", 3).output
    assert as_read(said, plan=plan_id, at=TIME) == snapshot("""\
Plan <plan> of tier_storage, as of <at> UTC: 1,200 live videos, 1.2 GB.
video user action bytes why
v0 ann compress 1.0 MB cold
v1 ann compress 1.0 MB cold
v2 ann compress 1.0 MB cold
... and 1,197 more: reelkeeper plan --show <plan> --limit 1200
In total: 100 to compress, 1,100 to retire; files of 1.2 GB before, $1.20 a month less, $2.40
  net.
A result is expected to keep 35% of its source's bytes, as three natural clips did. The first
  that are compressed here correct it; what yours would keep, reelkeeper scan --sample 10 shows,
  which changes no plan.
All that the catalogue knows, 0 B (without unfinished uploads, other prefixes and other
  buckets), is within R2's free 10 GB: if the account stores no more than that, storing less does
  not lower the bill yet. Dollars here are at list price.
Of them by segment `drafts`: cold: 1 to compress, 1.0 MB, $0.0010 a month.
Savings are estimates until the work is done. The net of compressing covers the days until the
  policy is expected to delete the video, minus CPU, requests, and the original's grace.\
""")
    assert len(ask("plan", "--show", plan_id)["items"]) == ITEMS


@pytest.mark.parametrize(
    ("saving", "net", "is_priced"), [(9_999, -9_999, False), (10_000, 0, True), (0, -10_000, True), (0, 10_000, True)]
)
def test_items_have_dollars_where_one_of_those_shown_reaches_a_cent(
    configured: Settings, saving: int, net: int, is_priced: bool
) -> None:
    with open_store(configured) as engine:
        plan = begin_plan(engine, "tier_storage", {}, AS_OF, "run")
        of = {"v0": (saving, net), "v1": (1, 1), "v2": (50_000, 50_000)}
        add_verdicts(
            engine, plan, judged(), lambda _: "cold", lambda verdict: of.get(verdict.video.id, (0, 0)), segment
        )
        saved = planning.load(engine, plan)
        assert [item.name for item in saved.items[:3]] == ["v0", "v1", "v2"]
        table = next(part for part in document(engine, saved, 2) if isinstance(part, Table))
    dollars = [heading for heading in table.headings if "$" in heading]
    assert len(dollars) == (2 if is_priced else 0)
    assert {len(row) for row in table.rows} == {len(table.headings)}


def test_the_outcomes_of_the_whole_plan_are_shown(reelkeeper: Run, configured: Settings, plan_id: str) -> None:
    with open_store(configured) as engine, transaction(engine, "test") as session:
        done = [Outcome(f"v{n}", "retired", "", 1_000_000, 0, n + 1) for n in range(100, ITEMS)]
        record_outcomes(session, plan_id, [*done, Outcome("v0", "compressed", "", 1_000_000, 400_000, 1)])
    said = reelkeeper("plan", "--show", plan_id, "--limit", 3).output
    assert as_read(said, plan=plan_id, at=TIME) == snapshot("""\
Plan <plan> of tier_storage, as of <at> UTC: 1,200 live videos, 1.2 GB.
video user action bytes became why
v0 ann compress 1.0 MB compressed to 400.0 kB 60% less
v1 ann compress 1.0 MB not done cold
v2 ann compress 1.0 MB not done cold
... and 1,197 more: reelkeeper plan --show <plan> --limit 1200
In total: 1 compressed, 99 not done, 1,100 retired; 1.1 GB less, $0.02 a month at R2's price for
  stored bytes.\
""")
    assert "Expected until" not in said


def test_a_plan_whose_run_was_killed_says_so_and_what_is_claimed_is_named(
    reelkeeper: Run, ask: Callable[..., Any], configured: Settings, plan_id: str
) -> None:
    with open_store(configured) as engine, transaction(engine, "test") as session:
        begin_applying(session, plan_id, "tier_storage", {}, "killed")
        at = now(session)
        row = {"generation": 1, "key": "k", "state": "deleting", "size_bytes": 2 * 10**6}
        session.execute(sa.insert(blobs).values(**row, run_id="killed", claimed_at=at))
    assert [line["state"] for line in ask("plan")] == ["stopped"]
    said = reelkeeper("plan", "--show", plan_id, "--limit", 3).output
    assert as_read(said, plan=plan_id, at=TIME) == snapshot("""\
Plan <plan> of tier_storage, as of <at> UTC: 1,200 live videos, 1.2 GB.
video user action bytes why
v0 ann compress 1.0 MB cold
v1 ann compress 1.0 MB cold
v2 ann compress 1.0 MB cold
... and 1,197 more: reelkeeper plan --show <plan> --limit 1200
In total: 100 to compress, 1,100 to retire; files of 1.2 GB before, $1.20 a month less, $2.40
  net.
Run killed ended before all was done. The next run of tier_storage makes a new plan, and
  continues.
A result is expected to keep 35% of its source's bytes, as three natural clips did. The first
  that are compressed here correct it; what yours would keep, reelkeeper scan --sample 10 shows,
  which changes no plan.
All that the catalogue knows, 2.0 MB (without unfinished uploads, other prefixes and other
  buckets), is within R2's free 10 GB: if the account stores no more than that, storing less does
  not lower the bill yet. Dollars here are at list price.
Of them by segment `drafts`: cold: 1 to compress, 1.0 MB, $0.0010 a month.
Savings are estimates until the work is done. The net of compressing covers the days until the
  policy is expected to delete the video, minus CPU, requests, and the original's grace.\
""")
    said = reelkeeper("plan", "purge_retired").output
    until = f"{at + CLAIM_TIMEOUT:%Y-%m-%d %H:%M:%S}"
    assert as_read(said, until=until, at=TIME, prefix=configured.prefix, plan=PLAN) == snapshot("""\
Plan <plan> of purge_retired, as of <at> UTC: 0 live videos, 0 B.
The plan has nothing to do.
Kept: 1 claimed.
1 object, 2.0 MB, claimed by run killed, which deletes them now or was killed: in that case, a
  purge from <until> UTC on continues with them.
With --apply, the guard would refuse: purge_retired selected 0 of 0 live videos, 0 B
min_population_percent: 0 live videos, where the last good run left 1,200; at least 80 % must be
  there
for example: no samples
plan: <plan>
override: none, since these figures cannot be right: run `reelkeeper run sync_catalog`, then
  plan anew
Nothing was changed.
The catalogue has no live video yet. To take in what is stored: reelkeeper run sync_catalog
  --apply, whose tables say why objects stay out, such as keys that no pattern reads
  (REELKEEPER_KEY_PATTERN)
The bucket has no owner yet: --apply claims it for this store by writing
  <prefix>.reelkeeper-identity.json, and commands may change it from then on. To look for longer
  and change nothing: reelkeeper up\
""")


@pytest.mark.parametrize(("flow", "limit"), [("expire_videos", "max_user_percent"), ("purge_retired", "max_objects")])
def test_a_plan_says_which_limit_leaves_videos_to_the_next_run(
    reelkeeper: Run, configured: Settings, flow: str, limit: str
) -> None:
    with open_store(configured) as engine:
        made = begin_plan(engine, flow, {}, AS_OF, "run")
        add_items(engine, made, [], lambda: (Counts(3, 3), {LEFT: 2}))
    assert f"limits.{limit} " in reelkeeper("plan", "--show", made).output


def test_a_saving_that_is_rounded_to_nothing_is_not_shown_as_nothing(reelkeeper: Run, configured: Settings) -> None:
    with open_store(configured) as engine, transaction(engine, "test") as session:
        row = {"generation": 1, "key": "k", "state": "retired", "size_bytes": 900, "purge_after": now(session)}
        session.execute(sa.insert(blobs).values(**row))
    said = reelkeeper("plan", "purge_retired").output
    assert as_read(said, prefix=configured.prefix, plan=PLAN, at=TIME) == snapshot("""\
Plan <plan> of purge_retired, as of <at> UTC: 0 live videos, 0 B.
video user action bytes why
blob 1 - purge 900 B its grace is over; retired because: not recorded
In total: 1 to purge; files of 900 B before, under $0.000001 a month less.
All that the catalogue knows, 900 B (without unfinished uploads, other prefixes and other
  buckets), is within R2's free 10 GB: if the account stores no more than that, storing less does
  not lower the bill yet. Dollars here are at list price.
Nothing was changed. To apply it: reelkeeper run purge_retired --apply --plan <plan>
The catalogue has no live video yet. To take in what is stored: reelkeeper run sync_catalog
  --apply, whose tables say why objects stay out, such as keys that no pattern reads
  (REELKEEPER_KEY_PATTERN)
The bucket has no owner yet: --apply claims it for this store by writing
  <prefix>.reelkeeper-identity.json, and commands may change it from then on. To look for longer
  and change nothing: reelkeeper up\
""")


def test_a_plan_is_made_and_shown_for_its_own_prefix_alone(
    reelkeeper: Run, ask: Callable[..., Any], one_video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ask("plan", "tier_storage")["plan"]
    assert made["population"]["objects"] == len([one_video])
    monkeypatch.setenv("REELKEEPER_PREFIX", "elsewhere/")
    for words in (["tier_storage"], ["--show", made["id"]]):
        assert "'elsewhere/'" in reelkeeper("plan", *words, exit_code=Misconfigured.exit_code).output


@pytest.fixture
def refused(configured: Settings, plan_id: str) -> str:
    with open_store(configured) as engine, transaction(engine, "test") as session:
        refuse_plan(session, plan_id, "refused: 1,100 videos, limit 500", {"max_objects": 1_100})
    return plan_id


def test_a_refused_plan_is_approved_and_carried_out_by_prefect(
    ask: Callable[..., Any], refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PrefectDouble().serving() as server:
        server.deployments["tier-storage/daily"] = "d-2"
        monkeypatch.setenv("REELKEEPER_PREFECT_API_URL", server.url)
        answer = ask("approve", refused, "--reason", "trial over", "--yes")
        assert (answer["run_id"], answer["widening"]) == ("run-0", {"max_objects": 1_100})
        (run,) = server.runs.values()
        assert run["parameters"] == {"plan_id": refused, "dry_run": False}


def test_if_prefect_starts_no_run_the_plan_is_approved_and_the_command_shown(
    reelkeeper: Run, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PrefectDouble().serving() as server:
        monkeypatch.setenv("REELKEEPER_PREFECT_API_URL", server.url)
        said = reelkeeper("approve", refused, "--reason", "x", "--yes", exit_code=1).output
    assert as_read(said, plan=refused) == snapshot("""\
error: plan <plan> is approved, but no run was started: Prefect answered 404 to GET of
  deployment tier-storage/daily. reelkeeper run tier_storage --apply --plan <plan>\
""")


def test_without_prefect_it_says_what_carries_it_out_and_what_was_refused_is_shown_first(
    reelkeeper: Run, configured: Settings, refused: str
) -> None:
    said = reelkeeper("approve", refused, "--reason", "x", exit_code=1).output  # nobody answers the question
    assert as_read(said) == snapshot("""\
refused: 1,100 videos, limit 500
Carry out this plan once, unchanged? [y/N]:Aborted.\
""")
    said = reelkeeper("approve", refused, "--reason", "trial over", "--yes").output
    assert as_read(said, plan=refused) == snapshot("""\
Plan <plan> is approved for one run. To carry it out: reelkeeper run tier_storage --apply --plan
  <plan>\
""")
    assert as_read(
        reelkeeper("approve", refused, "--reason", "again", "--yes", exit_code=9).output,
        plan=refused,
        at=TIME,
        person=getuser(),
    ) == snapshot("""\
error: plan <plan> cannot be approved, and nothing was changed: it was approved by <person> on
  <at> UTC\
""")
    with open_store(configured) as engine, reading(engine) as session:
        assert [row.event.detail["why"] for row in audit.events(session, event="approve")] == ["trial over"]


def test_a_plan_of_an_empty_catalogue_says_where_the_videos_are(
    reelkeeper: Run, double: R2Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.client.create_bucket(Bucket="apart-plans")
    monkeypatch.setenv("REELKEEPER_BUCKET", "apart-plans")
    monkeypatch.setenv("REELKEEPER_PREFIX", "videos/")
    assert as_read(reelkeeper("plan", "tier_storage").stdout, only="sync_catalog") == snapshot("""\
The catalogue has no live video yet. To take in what is stored: reelkeeper run sync_catalog
  --apply, whose tables say why objects stay out, such as keys that no pattern reads
  (REELKEEPER_KEY_PATTERN)\
""")
    double.client.put_object(Bucket="apart-plans", Key="u/ann/v.mp4", Body=b"theirs")
    assert as_read(reelkeeper("plan", "tier_storage").stdout, only="REELKEEPER_PREFIX") == snapshot(
        "0 objects under videos/; the bucket has u/ (1 object). To read those, set REELKEEPER_PREFIX."
    )


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "transcode_videos"),
        ("plan", "tier_storage", "--user", "ann"),
        ("plan", "tier_storage", "--prefix", "videos/ann/"),
        ("run", "expire_videos", "--user", "ann"),
    ],
    ids=" ".join,
)
def test_what_a_flow_does_not_plan_is_refused_with_what_does(reelkeeper: Run, words: tuple[str, ...]) -> None:
    said = reelkeeper(*words, exit_code=2).output
    assert ("tier_storage" if words[1] == "transcode_videos" else "migration.md") in said
