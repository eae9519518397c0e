"""Measure bytes, CPU and dollars of compressing natural clips of three classes, against an earlier revision.

Class A is x264 medium CRF 18, B veryfast CRF 23, C ultrafast at 5 Mbps; 640 pixels wide, 2.5 s of each natural clip.
A cold start has no earlier results; a warm one has learnt from another part of each clip in each class. The earlier
revision, 4ec30ad, is unpacked and runs in a separate process. Every result is measured again on all frames, also with
VMAF NEG, which production does not use. The oracle knows the CRF at the floor for each clip and preset, and pays for
one encode and one comparison, or skips the clip.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple
from unittest import mock

from rich.console import Console
from rich.table import Table

from bench.report import Row
from bench.tiering import spend
from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg import quality
from reelkeeper.model import CrfSearch, Refusal, SearchTotals
from reelkeeper.operations.lifecycle.transcode import Circumstances, shrink
from reelkeeper.rules.lifecycle import worth
from reelkeeper.rules.lifecycle.crf import Probe, floor_crf
from reelkeeper.rules.lifecycle.first_crf import Lesson, lesson
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.lifecycle.worth import Payback
from tests.clips import AAC, NATURAL, natural, tool

BEFORE: Final = "4ec30ad"
CLASSES: Final = {
    "A": "-preset medium -crf 18",
    "B": "-preset veryfast -crf 23",
    "C": "-preset ultrafast -b:v 5M",
}
DAYS: Final = 83  # rest of a premium user's 90 days when a video is old enough to be compressed
_ACCEPTANCE: Final = Acceptance()
_UNPRICED: Final = Payback(cpu_usd_per_hour=None)
_AIMED: Final = 0.7  # VMAF points from the target within which a first probe counts as a hit
_NEG: Final = "vmaf_v0.6.1neg"
# Limits: of the earlier revision's bytes and CPU for class A, and of a source's bytes for B.
_COLD_CPU, _WARM_CPU, _THIRD_CPU, _BYTES, _LEAN_BYTES, _H264_BYTES = 0.7, 0.55, 0.42, 0.75, 0.55, 0.37
_OLD: Final = """
import json, resource, sys
from pathlib import Path
import psutil
from reelkeeper.operations.transcode import shrink
def cpu():
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    launched = sum(sum(child.cpu_times()[:4]) for child in psutil.Process().children(recursive=True))
    return sum(one.ru_utime + one.ru_stime for one in spent) + launched
for clip in sys.argv[2:]:
    before = cpu()
    made = shrink(Path(clip), Path(sys.argv[1]))
    print(json.dumps([clip, getattr(made, "path", None), cpu() - before]), flush=True)
"""


class Clip(NamedTuple):
    """A natural clip in one class; `part` 0 is measured, other parts are for learning."""

    name: str
    kind: str
    part: int

    @property
    def model(self) -> str:
        """The name of its generator, which always uses the same encoder."""
        return f"{self.name}-{self.kind}"

    def file(self) -> Path:
        """Cut the clip, and keep the file for later runs."""
        folder = Path(tempfile.gettempdir()) / f"reelkeeper-bench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        target = folder / f"worth-{self.model}-{self.part}.mp4"
        if not target.exists():
            coded = ["-vf", "scale=640:-2", "-c:v", "libx264", "-pix_fmt", "yuv420p", *CLASSES[self.kind].split(), *AAC]
            draft = folder / "draft.mp4"
            cut = ("-ss", str(2.6 * self.part), "-t", "2.5", "-i", str(natural(self.name)))
            tool(*cut, *coded, str(draft)).rename(target)
        return target


class Made(NamedTuple):
    """The result of compressing a clip. `path` is None if the clip was kept as it is."""

    path: Path | None
    kept_bytes: int
    cpu_seconds: float
    probes: tuple[Probe, ...] = ()
    net_microusd: int = 0
    why: str = ""


def work(clip: Clip, folder: Path, recipe: Recipe, lessons: Sequence[Lesson], acceptance: Acceptance) -> "Worked":
    """Compress a clip as a current plan would."""
    searches: list[CrfSearch] = []
    source = clip.file()
    known = Circumstances(DAYS, clip.model, lessons=lambda _: lessons, note=searches.append)
    made = shrink(source, folder, recipe, acceptance, known)
    search = searches[0] if searches else None
    kept = source.stat().st_size if isinstance(made, Refusal) else made.size_bytes
    return Worked(
        Made(
            None if isinstance(made, Refusal) else Path(made.path),
            kept,
            search.cpu_seconds if search else 0.0,
            tuple(Probe(*probe) for probe in search.probes) if search else (),
            search.gain_microusd - search.cost_microusd if search else 0,
            made.reason if isinstance(made, Refusal) else "",
        ),
        search,
    )


class Worked(NamedTuple):
    """A clip's result, and its search, if there was one."""

    made: Made
    search: CrfSearch | None


def before(clips: Sequence[Clip], folder: Path) -> dict[Clip, Made]:
    """Compress the clips with the earlier revision, in a separate process."""
    root = Path(__file__).parent.parent
    packed = subprocess.run(["git", "archive", BEFORE, "reelkeeper"], cwd=root, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder / "before", filter="data")
    by_file = {str(clip.file()): clip for clip in clips}
    told = os.environ | {"PYTHONPATH": str(folder / "before")}
    ended = subprocess.run(
        [sys.executable, "-c", _OLD, str(folder), *by_file],
        cwd=folder,
        env=told,
        stdout=subprocess.PIPE,
        check=True,
    )
    found = {}
    for line in ended.stdout.splitlines():
        file, path, cpu_seconds = json.loads(line)
        kept = Path(path or file).stat().st_size
        found[by_file[file]] = Made(Path(path) if path else None, kept, cpu_seconds)
    return found


def oracle(clip: Clip, folder: Path, recipe: Recipe) -> int:
    """Return the largest net saving, in micro-dollars, of one encode at the CRF of the floor; 0 if none pays."""
    best = 0
    for preset in recipe.presets:
        made = _known(clip, folder, recipe, preset)
        saved, cpu_seconds = clip.file().stat().st_size - made.kept_bytes, made.cpu_seconds / max(1, len(made.probes))
        best = max(best, worth.Worth(saved, DAYS, cpu_seconds, recipe.payback).net_microusd)
    return best


def _known(clip: Clip, folder: Path, recipe: Recipe, preset: int) -> Made:
    """Search without a limit for the CRF that meets the floor with a preset; the result is deleted."""
    whole = {"preset": preset, "aim_points": 0.0, "max_probes": 8, "search_frame_step": 1, "payback": _UNPRICED}
    made = work(clip, folder, recipe.model_copy(update=whole), (), _ACCEPTANCE).made
    if made.path:
        made.path.unlink()
    return made


class Floors(NamedTuple):
    """The lowest quality among a set of results: VMAF points, and dB."""

    mean: float
    p5: float
    neg: float
    chroma_db: float


def measured_anew(results: Iterable[tuple[Clip, Made]]) -> Floors:
    """Measure every result on all frames, also with VMAF NEG; return the lowest of each, and delete the results."""
    least = Floors(100, 100, 100, 100)
    for clip, made in results:
        if made.path is None:
            continue
        media = ffmpeg.inspect(clip.file())
        found, _ = ffmpeg.measure(made.path, clip.file(), media)
        with mock.patch.object(quality, "_MODEL", _NEG):
            neg, _ = ffmpeg.measure(made.path, clip.file(), media)
        least = Floors(*map(min, least, (found.mean, found.p5, neg.mean, found.chroma_db)))
        made.path.unlink()
    return least


def measure() -> list[Row]:
    """Compress class by class, cold and warm, and compare; BENCH_SMALL=1 takes one clip of each class."""
    names = ["city"] if os.environ.get("BENCH_SMALL") else list(NATURAL)
    clips, taught = ([Clip(name, kind, part) for kind in CLASSES for name in names] for part in (0, 1))
    with tempfile.TemporaryDirectory() as place:
        return _measure(clips, taught, Path(place))


def _measure(clips: list[Clip], taught: list[Clip], folder: Path) -> list[Row]:
    old = before(clips, folder)
    rows = _floor_rows("4ec30ad", measured_anew(old.items()), promised=False)
    for codec, container in (("av1", "webm"), ("h264", "mp4")):
        recipe = Recipe.model_validate({"codec": codec, "container": container, "payback": _UNPRICED})
        lessons, totals = _learn(taught, folder, recipe)
        sets = {"cold": _all(clips, folder, recipe, ()), "warm": _all(clips, folder, recipe, lessons)}
        third = Acceptance(frame_step=3)
        sets["warm, every third"] = _all(clips, folder, recipe, lessons, third)
        _show(codec, old, sets)
        for name, made in sets.items():
            rows += _against(codec, name, old, made)
            rows += _floor_rows(f"{codec} {name}", measured_anew(made.items()), promised="third" not in name)
        rows += [*_learnt(codec, sets["cold"], sets["warm"]), *_at_the_floor(folder, recipe, old)]
        if codec == Recipe().codec:
            rows += _net(clips, folder, lessons, totals)
    return rows


def _learn(clips: list[Clip], folder: Path, recipe: Recipe) -> tuple[list[Lesson], SearchTotals]:
    lessons, source, kept, cpu = [], 0, 0, 0.0
    for clip in clips:
        made, search = work(clip, folder, recipe, (), _ACCEPTANCE)
        if search is None:
            continue
        found = lesson(search, clip.model, recipe, _ACCEPTANCE)
        lessons += [found] if found else []
        source, kept, cpu = source + search.source_bytes, kept + search.kept_bytes, cpu + search.cpu_seconds
        if made.path:
            made.path.unlink()
    return lessons, SearchTotals(len(clips), len(lessons), source, kept, cpu)


def _all(
    clips: list[Clip], folder: Path, recipe: Recipe, lessons: Sequence[Lesson], acceptance: Acceptance = _ACCEPTANCE
) -> dict[Clip, Made]:
    found = {}
    for clip in clips:
        made: list[Made] = []
        spent = spend(lambda: made.append(work(clip, folder, recipe, lessons, acceptance).made))  # noqa: B023  called now
        found[clip] = made[0]._replace(cpu_seconds=spent.cpu_seconds)
    return found


def _show(title: str, old: dict[Clip, Made], sets: dict[str, dict[Clip, Made]]) -> None:
    """Print the table by class and clip: bytes kept of the source, CPU seconds, probes."""
    table = Table(
        "clip", BEFORE, *sets, title=f"{title}: bytes kept, CPU s, and first CRF to last", title_justify="left"
    )
    for clip, was in old.items():
        size = clip.file().stat().st_size
        cells = (
            f"{made.kept_bytes / size:.3f} {made.cpu_seconds:5.1f} [{_crfs(made)}]"
            for made in (was, *(found[clip] for found in sets.values()))
        )
        table.add_row(f"{clip.kind} {clip.name}", *cells)
    Console(width=150).print(table)


def _crfs(made: Made) -> str:
    return " ".join(f"{probe.crf:g}" for probe in made.probes)


def _against(codec: str, name: str, old: dict[Clip, Made], made: dict[Clip, Made]) -> list[Row]:
    rows = []
    promised = codec == "av1"
    for kind in CLASSES:
        mine = [clip for clip in made if clip.kind == kind]
        source = sum(clip.file().stat().st_size for clip in mine)
        kept, was = sum(made[clip].kept_bytes for clip in mine), sum(old[clip].kept_bytes for clip in mine)
        cpu, took = sum(made[clip].cpu_seconds for clip in mine), sum(old[clip].cpu_seconds for clip in mine)
        cpu_limit = {"cold": _COLD_CPU, "warm": _WARM_CPU}.get(name, _THIRD_CPU) if promised and kind == "A" else None
        what = f"{codec} {name}, class {kind}"
        rows += [
            Row(f"{what}: bytes kept", kept / 1e6, was / 1e6, kept / was, _BYTES if cpu_limit else None, "MB"),
            Row(f"{what}: CPU", cpu, took, cpu / took, cpu_limit),
        ]
        of_source = {("h264", "A"): _H264_BYTES, ("av1", "B"): _LEAN_BYTES}.get((codec, kind))
        rows.append(Row(f"{what}: of the source's bytes", kept / 1e6, source / 1e6, kept / source, of_source, "MB"))
    return rows


def _floor_rows(name: str, least: Floors, *, promised: bool) -> list[Row]:
    wanted = {"mean": _ACCEPTANCE.min_vmaf_mean, "p5": _ACCEPTANCE.min_vmaf_p5, "chroma_db": _ACCEPTANCE.min_chroma_db}
    return [
        Row(f"{name}: least {what}", value, floor, floor / value, 1.0 if promised and what in wanted else None, "")
        for what, value in least._asdict().items()
        for floor in [wanted.get(what, _ACCEPTANCE.min_vmaf_mean)]
    ]


def _learnt(codec: str, cold: dict[Clip, Made], warm: dict[Clip, Made]) -> list[Row]:
    """Compare learnt first CRFs with those of a cold start: distance from the floor, and number of encodes."""
    recipe = Recipe.model_validate({"codec": codec})

    def off(made: dict[Clip, Made]) -> float:
        return fmean(
            abs(one.probes[0].crf - floor)
            for one in made.values()
            if (floor := floor_crf(one.probes, recipe, _ACCEPTANCE)) is not None
        )

    def encodes(made: dict[Clip, Made]) -> float:
        return fmean(len(one.probes) for one in made.values())

    firsts = [one.probes[0].margin(_ACCEPTANCE) for one in warm.values() if one.probes]
    hits = sum(margin is not None and abs(margin - recipe.aim_points) <= _AIMED for margin in firsts)
    wanted = 0.8 * len(firsts)
    what = f"{codec} warm: first probes within {_AIMED} of the aim"
    return [
        Row(what, hits, wanted, wanted / max(hits, 0.1), 1.0, ""),
        Row(f"{codec}: first CRF off by, warm to cold", off(warm), off(cold), off(warm) / off(cold), None, ""),
        Row(f"{codec}: encodes, warm to cold", encodes(warm), encodes(cold), encodes(warm) / encodes(cold), None, ""),
    ]


def _at_the_floor(folder: Path, recipe: Recipe, old: dict[Clip, Made]) -> list[Row]:
    """Measure the bytes that class A keeps at exactly the floor, by preset: a bound for every search."""
    dense, rows = [clip for clip in old if clip.kind == "A"], []
    was = sum(old[clip].kept_bytes for clip in dense)
    for preset in recipe.presets:
        kept = sum(_known(clip, folder, recipe, preset).kept_bytes for clip in dense)
        what = f"{recipe.codec} preset {preset} at the floor, class A: bytes kept"
        rows.append(Row(what, kept / 1e6, was / 1e6, kept / was, None, "MB"))
    return rows


def _net(clips: list[Clip], folder: Path, lessons: list[Lesson], learnt: SearchTotals) -> list[Row]:
    """Compress the clips that pay over 83 days at the default price, and compare with the oracle."""
    recipe, rows = Recipe(), []
    with ThreadPoolExecutor(2) as pool:
        known = dict(zip(clips, pool.map(lambda clip: oracle(clip, folder, recipe), clips), strict=True))
    nets = {}
    for name, seen, totals in (("cold", (), SearchTotals()), ("warm", lessons, learnt)):
        planned = [
            clip
            for clip in clips
            if worth.unopened(recipe.codec, recipe.payback, totals, clip.file().stat().st_size, DAYS).pays
        ]
        made = nets[name] = _all(planned, folder, recipe, seen)
        floors = measured_anew(made.items())
        least, most = min((one.net_microusd for one in made.values()), default=0), sum(known.values())
        total = sum(one.net_microusd for one in made.values())
        rows.append(
            Row(
                f"{recipe.codec} {name}, {DAYS} days: of the oracle's net",
                total,
                most,
                most / max(total, 1),
                1 / 0.9,
                "u$",
            )
        )
        lost = sum(one.net_microusd < 0 for one in made.values())
        rows.append(Row(f"{recipe.codec} {name}: compressed at a loss, least net u$", least, len(made), lost, 0.0, ""))
        rows += _floor_rows(f"{recipe.codec} {name}, priced", floors, promised=True)
    table = Table("clip", "oracle", *nets, title=f"net micro-dollars over {DAYS} days", title_justify="left")
    for clip in clips:
        ends = [some.get(clip) for some in nets.values()]
        cells = [f"{end.net_microusd} [{_crfs(end)}] {end.why[:60]}" if end else "kept by the plan" for end in ends]
        table.add_row(f"{clip.kind} {clip.name}", str(known[clip]), *cells)
    Console(width=150).print(table)
    return rows
