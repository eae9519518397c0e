"""`videos`: list, show, delete, import and add videos of the catalogue."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from reelkeeper.cli.opening import configured, reading, store, workspace
from reelkeeper.cli.screen import emit, listing, respond, say, table
from reelkeeper.cli.words import AsJson, Limit, moment, new_run_id, who
from reelkeeper.errors import InputRefused, KeyRefused, LeaseLost, Misconfigured, NotFound, PartialFailure
from reelkeeper.rules.core.wording import DATED_BY_KEY, many, sentence

if TYPE_CHECKING:
    from reelkeeper.store.videos.imports import Imported

group = typer.Typer(help="List videos, show one, import the service's data, add one.", invoke_without_command=True)

IdOrKey = Annotated[str, typer.Argument(metavar="ID|KEY", help="The video, or the key of one of its objects.")]


@group.callback()
def videos(
    ctx: typer.Context,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only videos in this state: pending, live, retired, gone or lost.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only videos whose state was last changed by this run.")] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List videos by user and id."""
    if ctx.invoked_subcommand:
        return
    from reelkeeper.model import VideoState
    from reelkeeper.store.core.former_ids import known_user
    from reelkeeper.store.videos.videos import is_user, list_videos

    if state is not None and state not in set(VideoState):
        raise typer.BadParameter(f"no state {state!r}; there are {', '.join(VideoState)}")
    with reading() as session:
        user = user and known_user(session, user)
        if user and not is_user(session, user, even_erased=True):
            raise NotFound(f"no user {user!r} in the catalogue")
        found = list_videos(session, user_id=user, state=state, run_id=run, limit=limit)
    headings = ("!user", "!video", "tier", "state", "!created", ">views", ">bytes", "codec", "why")
    cells = (
        "user_id",
        "id",
        "tier",
        "state",
        lambda video: _day(video.created_at),
        lambda video: "unknown" if video.views is None else video.views,
        "size_bytes",
        "codec",
        "reason",
    )
    listing(found, headings, cells, as_json=as_json)
    if len(found) == limit and not as_json:
        say(f"The first {limit:,}; --limit shows more.")
    if found and not as_json and "{year}" in ",".join(configured().key_pattern):
        say(sentence(DATED_BY_KEY))


def _day(at: Any) -> str:  # noqa: ANN401  a time or none
    return f"{at:%Y-%m-%d}" if at else "unknown"


@group.command()
def show(video_id: IdOrKey, as_json: AsJson = False) -> None:
    """Show one video: its state, all objects that it ever had, and its history."""
    from reelkeeper.operations.lifecycle.why import find_video
    from reelkeeper.store.core.audit import events
    from reelkeeper.store.videos.videos import blobs_of_video

    with reading() as session:
        video = find_video(session, video_id)
        objects, history = blobs_of_video(session, video.id), list(events(session, video_id=video.id))
    if as_json:
        emit({"video": video, "objects": objects, "history": history})
        return
    views = "unknown views" if video.views is None else many(video.views, "view")
    say(f"{video.id} of {video.user_id} ({video.tier or 'tier unknown'}), {video.state}, {views}.")
    made = f" by {video.model}" if video.model else ""
    tag = f", tagged {video.tag}" if video.tag else ""
    say(f"Created {_day(video.created_at)}{made}{tag}." + (f" Why: {video.reason}." if video.reason else ""))
    headings = (">gen.", "state", ">bytes", "codec", ">VMAF", "!purge after", "key, and why it was retired")
    cells = (
        "generation",
        "state",
        "size_bytes",
        "codec",
        lambda blob: f"{blob.quality_mean:.1f}" if blob.quality_mean else None,
        "purge_after",
        lambda blob: f"{blob.key}\n{blob.retire_reason or ''}".strip(),
    )
    listing(objects, headings, cells, as_json=False)
    table(("!at", "!event", "run"), [(item.at, item.event.event, item.event.run_id) for item in reversed(history)])


@group.command()
def why(video_id: IdOrKey, as_json: AsJson = False) -> None:
    """Explain what decides about a video: its key, policy, views and holds, and when it may change next."""
    from reelkeeper.model.key_patterns import compiled
    from reelkeeper.operations.core.workspace import trial_at
    from reelkeeper.operations.lifecycle.previews import failed_checks, plans_service_keys
    from reelkeeper.operations.lifecycle.why import explain

    settings = configured()
    with store() as engine:
        may = partial(plans_service_keys, engine, settings)
        layout = compiled(settings.key_pattern)
        failed = failed_checks(engine, settings)
        found = explain(engine, video_id, settings.prefix, may, layout, failed=failed)
    if trial_at(settings):
        found = found.until_live()
    if as_json:
        emit(found)
        return
    table(("!what", "says"), found.reasons)
    when = f"not before {found.next_at:%Y-%m-%d %H:%M} UTC, by " if found.next_at else ""
    say(f"Next: {when}{found.next_step}.")


@group.command()
def delete(
    video_id: Annotated[str, typer.Argument(metavar="ID", help="The video.")],
    user: Annotated[str | None, typer.Option(help="Only if it belongs to this user.")] = None,
    as_json: AsJson = False,
) -> None:
    """Delete a video for its user: it is no longer served, and is purged after its grace."""
    from reelkeeper.operations.core.either_id import for_video
    from reelkeeper.operations.removals.delete import delete as delete_video

    with store() as engine:
        run_id = new_run_id("delete")
        act = partial(delete_video, engine, by=who(), run_id=run_id)
        deleted = for_video(engine, video_id, user, lambda video_id, user_id: act(video_id, user_id=user_id))
    until = f"{deleted.restorable_until:%Y-%m-%d %H:%M} UTC"
    command = shlex.join(["reelkeeper", "restore", "--video", deleted.video_id])
    text = f"{deleted.video_id} of {deleted.user_id} is deleted. To undo until {until}: {command}"
    respond(text, deleted, as_json=as_json)


def _of_columns(names: str) -> Any:  # noqa: ANN401  typer's own
    return typer.Option(exists=True, dir_okay=False, help=f"CSV: {names}")


@group.command("import")
def bring_in(
    users: Annotated[Path | None, _of_columns("id,tier,created_at")] = None,
    videos: Annotated[Path | None, _of_columns("id,user_id,created_at,tag")] = None,
    views: Annotated[Path | None, _of_columns("video_id,day,views,viewed_at")] = None,
    keys: Annotated[Path | None, _of_columns("key,video_id,user_id,created_at")] = None,
    complete_days: Annotated[
        bool, typer.Option("--complete-days", help="The views file has all views of the days in it.")
    ] = False,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Skip videos that are not in the catalogue.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import tiers, ages, daily views and the owners of keys. A file with one bad line is rejected as a whole.

    Files before it stay imported: exit code 6 then, and 9 where none was.

    --keys names the owners of keys that do not contain them, for the next sync_catalog. Adopted videos keep their
    owner: only the creation time is imported, and a line that names another user is skipped.
    """
    if not (users or videos or views or keys):
        raise typer.BadParameter("give at least one of --users, --videos, --views and --keys")
    if complete_days and not views:
        raise typer.BadParameter("--complete-days says something of the file of --views; give both")
    from reelkeeper.operations.billing.users import import_users
    from reelkeeper.store.videos import imports, key_owners

    files: tuple[tuple[str, Path | None, Callable[..., imports.Imported]], ...] = (
        ("users", users, import_users),
        ("videos", videos, partial(imports.import_videos, skip_unknown=skip_unknown)),
        ("views", views, partial(imports.import_views, complete=complete_days, skip_unknown=skip_unknown)),
        ("keys", keys, lambda engine, lines: key_owners.import_keys(engine, lines, partial(_key, configured().prefix))),
    )
    given, taken = [name for name, file, _ in files if file], dict[str, imports.Imported]()
    try:
        with store() as engine:
            for name, file, take in files:
                if file:
                    with _csv(file) as lines:
                        taken[name] = take(engine, lines)
    except InputRefused as error:
        # guard imports.in_part: files are imported, and a script is told that nothing was changed
        if not taken:
            raise
        raise PartialFailure(str(error)) from None
    finally:  # the files before a bad one stay imported
        _tell_imported(taken, given, as_json=as_json)
    if views and not complete_days and not as_json:
        say(
            "A video without a line for a day keeps its views of that day unknown, and is kept. If the file has all "
            "views of its days, import it again with --complete-days"
        )


def _tell_imported(taken: "Mapping[str, Imported]", given: Sequence[str], *, as_json: bool) -> None:
    """Report how many lines of each file were imported, and the files that a bad one kept out."""
    if as_json:
        if taken:
            emit(taken)
        return
    for name, count in taken.items():
        skipped = f", {count.skipped:,} skipped" if count.skipped else ""
        say(f"{name}: {many(count.lines, 'line')} imported{skipped}")
    for name in given[len(taken) + 1 :]:
        say(f"{name}: not imported, as a file before it was refused")


@contextmanager
def _csv(file: Path) -> Iterator[TextIO]:
    """Open a CSV file in UTF-8, with or without the mark that Excel puts first; errors name the file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise InputRefused(f"{file}: nothing of it was taken, because it is not in UTF-8: {error}") from None
    except InputRefused as error:
        raise InputRefused(f"{file}: {error}") from None


def _key(prefix: str, text: str) -> str:
    from reelkeeper.adapters.s3.keys import confined

    try:
        return confined(prefix, text)
    except KeyRefused as error:
        raise ValueError(f"is not the key of a video: {error}") from None


@group.command("import-reads")
def bring_in_reads(
    day: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="Only this UTC day; default: all past days that are not complete yet."),
    ] = None,
    complete_days: Annotated[
        bool,
        typer.Option(
            "--complete-days", help="No CDN is in front of the bucket, so an object without reads had no views."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import Cloudflare's count of each object's reads as views. A day may be imported again."""
    from contextlib import closing

    from reelkeeper.adapters import cloudflare
    from reelkeeper.operations.videos.views import days_to_import, import_reads

    settings = configured()
    client = cloudflare.connect(settings)
    if client is None:
        raise Misconfigured(
            "set REELKEEPER_R2_ACCOUNT_ID and REELKEEPER_CLOUDFLARE_API_TOKEN to read Cloudflare's counts"
        )
    at = moment(day)
    with closing(client), store() as engine:
        days = [at.date()] if at else days_to_import(engine)
        taken = [import_reads(engine, client, settings.analytics_bucket, item, complete=complete_days) for item in days]
    completeness = "yes" if complete_days else "could be, with --complete-days"
    headings = ("!day", ">videos", ">reads", ">unknown objects", "complete")
    cells = (
        "day",
        "videos",
        "reads",
        "unknown_keys",
        lambda reads: f"no: {reads.doubt}" if reads.doubt else completeness,
    )
    otherwise = "All past days for which Cloudflare has counts are complete already."
    listing(taken, headings, cells, as_json=as_json, otherwise=otherwise)


@group.command()
def add(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The video file.")],
    user: Annotated[str, typer.Option(help="The id of its user.")],
    video: Annotated[str, typer.Option(help="Its id; a live video of the user with this id gets the new bytes.")],
    created_at: Annotated[str | None, typer.Option(metavar="TIME", help="When it was created; default: now.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag of a new video, for segments of the lifecycle policy.")] = None,
    as_json: AsJson = False,
) -> None:
    """Store a video: upload it, read it back, decode it to its end, and only then publish it."""
    from datetime import UTC, datetime

    from reelkeeper.model.requests import Incoming, made_at
    from reelkeeper.operations.core.either_id import present_user
    from reelkeeper.operations.core.lease import LeaseManager
    from reelkeeper.operations.videos.upload import CONTENT_TYPES, upload

    try:
        at = made_at(moment(created_at) or datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(f"--created-at {created_at} {error}") from None
    if file.suffix.lstrip(".").lower() not in CONTENT_TYPES:
        raise typer.BadParameter(f"{file.name} does not end in one of {', '.join(CONTENT_TYPES)}")
    with workspace() as opened, LeaseManager(opened.engine) as manager:
        opened.require_live()
        # guard ids.added: a second user of a former id gets the video, and the renamed one is not found any more
        user = present_user(opened.engine, user)
        taken = manager.take([f"video/{video}"])
        if not taken:
            raise LeaseLost(f"another run is working on video {video!r}; try again in a minute")
        outcome = upload(
            opened,
            file,
            Incoming(user, video, at, tag),
            scratch=configured().scratch,
            lease=taken[0],
            run_id=new_run_id("add"),
            grace=opened.in_force.policies.lifecycle.grace,
        )
    if as_json:
        emit(outcome)
    if outcome.action != "uploaded":
        raise PartialFailure(f"{video} was not stored ({outcome.action}): {outcome.reason}")
    if not as_json:
        say(f"{video} of {user} is stored, {outcome.after_bytes:,} bytes.")
