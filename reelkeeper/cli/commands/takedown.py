"""`takedown`: delete a video's bytes at once, whatever the rules say."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from reelkeeper.cli.opening import configured, store, workspace
from reelkeeper.cli.screen import emit, respond, say, size, table
from reelkeeper.cli.words import AsJson, new_run_id, not_blank, who
from reelkeeper.errors import PartialFailure
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from reelkeeper.operations.core.workspace import Workspace
    from reelkeeper.operations.removals.at_vendors import AtVendor
    from reelkeeper.operations.removals.takedown import Certificate, Foreseen


def takedown(
    video_id: Annotated[str, typer.Argument(metavar="ID", help="The video.")],
    reason: Annotated[str | None, typer.Option(callback=not_blank, help="The reason, for the audit record.")] = None,
    same_bytes: Annotated[
        bool, typer.Option("--same-bytes", help="Also every other video with the same bytes.")
    ] = False,
    max_videos: Annotated[
        int | None,
        typer.Option(min=0, help="Maximum number of videos with the same bytes, 500 by default; more are refused."),
    ] = None,
    show: Annotated[bool, typer.Option("--certificate", help="Only show whether and when it was taken down.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a video down: its bytes are deleted at once, and never published again.

    Neither grace nor freeze nor any hold but a legal one stops it, and it cannot be undone. Exit code 6 while an object
    is still stored, with the reason; where more videos than allowed have the same bytes, which stay; and where the
    CDN's cache could not be purged. In a trial it only says what it would delete, and is refused: exit code 9.
    """
    from reelkeeper.operations.core.either_id import for_video
    from reelkeeper.operations.removals import takedown as operation

    left = list[str]()
    if show:
        with store() as engine:
            found = for_video(engine, video_id, None, lambda name, _: operation.certificate(engine, name))
    else:
        if not reason:
            raise typer.BadParameter("a takedown needs --reason")
        if max_videos is not None and not same_bytes:
            raise typer.BadParameter("--max-videos needs --same-bytes")
        with workspace() as opened:
            if opened.on_trial or not yes:
                foreseen = for_video(
                    opened.engine, video_id, None, lambda name, _: operation.foresee(opened.engine, name)
                )
                deleted = _deleted(foreseen, same_bytes=same_bytes)
            if opened.on_trial:
                respond(f"Once live, this would permanently delete {deleted}.", foreseen, as_json=as_json)
                opened.require_live()
            if not yes:
                typer.confirm(f"Permanently delete {deleted} now?", abort=True, err=True)
            take = partial(
                operation.take_down,
                opened,
                order=operation.TakedownOrder(who(), reason, new_run_id("takedown")),
                scratch=configured().scratch,
                same_bytes=same_bytes,
                max_videos=operation.MAX_VIDEOS if max_videos is None else max_videos,
            )
            found, left = _carry_out(opened, video_id, take)
    if as_json:
        lists = {name: [item._asdict() for item in getattr(found, name)] for name in ("objects", "vendors")}
        emit({**found._asdict(), **lists})
    else:
        _show(found)
    if left:
        raise PartialFailure("; ".join(left))


def _carry_out(
    opened: "Workspace", video_id: str, take: "Callable[[str], Certificate]"
) -> "tuple[Certificate, list[str]]":
    """Take the video down, and tell the CDN and the vendors; return the certificate, and what is left to do."""
    from reelkeeper.operations.core.either_id import for_video
    from reelkeeper.operations.lifecycle import cache_purge
    from reelkeeper.operations.removals import lock_ends
    from reelkeeper.operations.removals.takedown import ask_vendors

    engine, settings, left = opened.engine, configured(), list[str]()
    found = for_video(engine, video_id, None, lambda name, _: take(name))
    # guard takedown.others_kept: others with the same bytes stay, and the command says done
    if others := found.others_kept:
        left.append(
            f"video {found.video_id!r} is taken down; {others:,} other videos have the same bytes, more than allowed: "
            f"they were not changed. To take down all: --max-videos {others}"
        )
    # guard takedown.cdn: a video that was taken down is served from the CDN's cache, and the command says done
    if cache_purge.catch_up(engine, settings, "takedown") is None:
        left.append("Cloudflare's cache could not be purged, and may still serve what was deleted")
    found = lock_ends.explain(opened, ask_vendors(engine, found, settings, "takedown"), lock_ends.reader(settings))
    if found.left:
        left.append(f"still stored, but no longer served: {many(len(found.left), 'object')}")
    return found, left


def show_vendors(vendors: "Sequence[AtVendor]") -> None:
    """Show what became of copies at vendors, if there may be any."""
    if vendors:
        rows = [(item.provider, item.job, item.state, item.at, item.why) for item in vendors]
        table(("!vendor", "its job", "!copy there", "!since", "which means"), rows)


def _deleted(found: "Foreseen", *, same_bytes: bool) -> str:
    others = ", and those of every other video with the same bytes" if same_bytes else ""
    return f"the bytes of {found.video_id} ({many(found.objects, 'object')}, {size(found.size_bytes)}){others}"


def _show(found: "Certificate") -> None:
    others = f" and {len(found.video_ids) - 1:,} others with the same bytes" if len(found.video_ids) > 1 else ""
    say(f"{found.video_id}{others}: taken down {found.at:%Y-%m-%d %H:%M:%S} UTC by {found.by}: {found.reason}.")
    rows = [(item.video_id, item.key, item.sha256, item.purged_at, item.event, item.why) for item in found.objects]
    table(("!video", "key", "SHA-256", "!deleted", ">event", "still stored, because"), rows)
    show_vendors(found.vendors)
    if found.files:
        say(f"Not deleted, as the service's own; delete them, with any S3 client: {', '.join(found.files)}.")
    say(f"The takedown is event {found.event} of the audit record: reelkeeper audit verify")
