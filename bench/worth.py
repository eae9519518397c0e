"""Benchmark bytes, CPU and dollars of compressing natural clips of three classes, against the exact floor of quality.

Class A is x264 medium CRF 18, B veryfast CRF 23, C ultrafast at 5 Mbps; 640 pixels wide, 2.5 s of each natural clip,
with sound. A cold start has no earlier results; a warm one has learnt from another part of each clip in each class.
Every result is measured again on all frames. The floor is the CRF that just meets the least quality, found by a search
without limits for each clip and preset; the oracle knows it, and pays for one encode and one comparison, or skips the
clip.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

from bench.report import Row
from reelkeeper.adapters import ffmpeg
from reelkeeper.model import CrfSearch, Refusal, SearchTotals
from reelkeeper.operations.lifecycle.transcode import Terms, search
from reelkeeper.rules.lifecycle import crf, worth
from reelkeeper.rules.lifecycle.first_crf import Lesson, lesson
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.lifecycle.worth import Payback
from tests.clips import NATURAL, cut

CLASSES: Final = {
    "A": "-vf scale=640:-2 -preset medium -crf 18",
    "B": "-vf scale=640:-2 -preset veryfast -crf 23",
    "C": "-vf scale=640:-2 -preset ultrafast -b:v 5M",
}
DAYS: Final = 83  # rest of a premium user's 90 days when a video is old enough to be compressed
CODECS: Final = {"h264": "mp4", "av1": "webm"}
KEPT: Final = {("h264", "A"): 0.37, ("h264", "B"): 0.65, ("av1", "A"): 0.285, ("av1", "B"): 0.53}  # of the source
TO_FLOOR, COLD_CPU, WARM_CPU = 1.04, 1.7, 1.2
COLD_NET, WARM_NET = 0.85, 0.95  # of the oracle's
_ACCEPTANCE: Final = Acceptance()
_UNPRICED: Final = Payback(cpu_usd_per_hour=None)


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
        target = folder / f"clip-{self.model}-{self.part}.mp4"
        if not target.exists():
            start, draft = 2.6 * self.part, folder / "draft.mp4"
            cut(self.name, draft, start=start, seconds=2.5, encoder=CLASSES[self.kind]).rename(target)
        return target

    @property
    def size_bytes(self) -> int:
        """The size of its file."""
        return self.file().stat().st_size


class Made(NamedTuple):
    """The result of compressing a clip. `path` is None if the clip was kept as it is; `search` if it was not tried."""

    path: Path | None
    kept_bytes: int
    search: CrfSearch | None

    @property
    def cpu_seconds(self) -> float:
        """CPU of the whole search."""
        return self.search.cpu_seconds if self.search else 0.0

    @property
    def net_microusd(self) -> int:
        """Saved storage, less the CPU."""
        return self.search.gain_microusd - self.search.cost_microusd if self.search else 0


def measure() -> Iterator[Row]:
    """Compress class by class, cold and warm, and compare."""
    clips, taught = ([Clip(name, kind, part) for kind in CLASSES for name in NATURAL] for part in (0, 1))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for codec, container in CODECS.items():
            recipe = Recipe.model_validate({"codec": codec, "container": container, "payback": _UNPRICED})
            lessons, totals, pace = _learn(taught, folder, recipe)
            floors = dict[Clip, Made]()
            for name, known, most in (("cold", ((), 1.0), COLD_CPU), ("warm", (lessons, pace), WARM_CPU)):
                made = {clip: _work(clip, folder, recipe, *known) for clip in clips}
                for clip, search in ((clip, made[clip].search) for clip in clips if clip not in floors):
                    floors[clip] = _floor(clip, folder, recipe, search.preset if search else recipe.presets[-1])
                yield from _of_classes(f"{codec} {name}", codec, made, floors, most)
                yield from _quality(f"{codec} {name}", made.items())
            if codec == Recipe().codec:
                yield from _net(clips, folder, (lessons, pace), totals)


def _work(clip: Clip, folder: Path, recipe: Recipe, lessons: Sequence[Lesson] = (), pace: float = 1.0) -> Made:
    """Compress a clip as a current plan would."""
    terms = Terms(recipe, _ACCEPTANCE, worth.Stay(DAYS), clip.model, lessons=lessons, pace=pace)
    made, searched = search(clip.file(), folder, terms)
    if isinstance(made, Refusal):
        return Made(None, clip.size_bytes, searched)
    return Made(Path(made.path), made.size_bytes, searched)


def _floor(clip: Clip, folder: Path, recipe: Recipe, preset: int) -> Made:
    """Search without a limit for the CRF that meets the floor with a preset; the result is deleted.

    Its CPU is that of one encode and its comparison on all frames.
    """
    whole = recipe.model_copy(update={"preset": preset, "payback": _UNPRICED})
    with mock.patch.multiple(crf, _AIM_POINTS=0.0, _MAX_PROBES=8, _SEARCH_STEP=1):
        made = _work(clip, folder, whole)
    if made.path:
        made.path.unlink()
    return made


def _one_encode(floor: Made) -> float:
    return floor.cpu_seconds / max(1, len(floor.search.probes)) if floor.search else 0.0


def _learn(clips: Sequence[Clip], folder: Path, recipe: Recipe) -> tuple[list[Lesson], SearchTotals, float]:
    made = {clip: _work(clip, folder, recipe) for clip in clips}
    for path in (one.path for one in made.values() if one.path):
        path.unlink()
    searched = [(clip.model, one.search) for clip, one in made.items() if one.search]
    found = [lesson(search, model, recipe, _ACCEPTANCE) for model, search in searched]
    lessons, searches = [item for item in found if item], [search for _, search in searched]
    figures: Any = zip(*((each.source_bytes, each.kept_bytes, each.cpu_seconds) for each in searches), strict=True)
    learnt = SearchTotals(len(clips), len(lessons), *map(sum, figures))
    return lessons, learnt, worth.pace(recipe.codec, searches, searches)


def _of_classes(what: str, codec: str, made: dict[Clip, Made], floors: dict[Clip, Made], most: float) -> Iterator[Row]:
    for kind in CLASSES:
        mine = [clip for clip in made if clip.kind == kind]
        source, kept, floor = (
            sum(size) / 1e6
            for size in zip(*((c.size_bytes, made[c].kept_bytes, floors[c].kept_bytes) for c in mine), strict=True)
        )
        named, limit = f"{what}, class {kind}: bytes", KEPT.get((codec, kind))
        yield Row(named, kept, "the source", source, limit, "MB")
        yield Row(named, kept, "the exact floor", floor, TO_FLOOR if limit else None, "MB")
        cpu, once = sum(made[clip].cpu_seconds for clip in mine), sum(_one_encode(floors[clip]) for clip in mine)
        yield Row(f"{what}, class {kind}: CPU", cpu, "one encode and VMAF", once, most if limit else None)


def _quality(what: str, results: Iterable[tuple[Clip, Made]]) -> Iterator[Row]:
    """Measure every result on all frames; tell the lowest of each, and delete the results."""
    least = {"mean": 100.0, "p5": 100.0}
    for clip, made in results:
        if made.path:
            found, _ = ffmpeg.measure(made.path, clip.file(), ffmpeg.inspect(clip.file()))
            least = {"mean": min(least["mean"], found.mean), "p5": min(least["p5"], found.p5)}
            made.path.unlink()
    for name, floor in (("mean", _ACCEPTANCE.min_vmaf_mean), ("p5", _ACCEPTANCE.min_vmaf_p5)):
        yield Row(f"{what}: VMAF {name} lost at most", 100 - least[name], "promised", 100 - floor, 1.0, "points")


def _net(clips: Sequence[Clip], folder: Path, warm: tuple[list[Lesson], float], learnt: SearchTotals) -> Iterator[Row]:
    """Compress the clips that pay over 83 days at the default price, and compare with the oracle."""
    recipe = Recipe()
    oracle = sum(_oracle(clip, folder, recipe) for clip in clips)
    for name, known, totals, least in (("cold", ((), 1.0), SearchTotals(), COLD_NET), ("warm", warm, learnt, WARM_NET)):
        made = {
            clip: _work(clip, folder, recipe, *known)
            for clip in clips
            if worth.unopened(recipe.codec, recipe.payback, totals, clip.size_bytes, worth.Stay(DAYS)).pays
        }
        net = sum(one.net_microusd for one in made.values())
        what = f"{recipe.codec} {name}, {DAYS} days: net not earned"
        yield Row(what, oracle - net, "the oracle's net", oracle, 1 - least, "u$")
        lost = -min((one.net_microusd for one in made.values()), default=0)
        yield Row(f"{recipe.codec} {name}: the dearest loss", max(lost, 0), "the oracle's net", oracle, 0.0, "u$")
        yield from _quality(f"{recipe.codec} {name}, priced", made.items())


def _oracle(clip: Clip, folder: Path, recipe: Recipe) -> int:
    """Return the largest net saving, in micro-dollars, of one encode at the CRF of the floor; 0 if none pays."""
    floors = [_floor(clip, folder, recipe, preset) for preset in recipe.presets]
    saved = [
        worth.Worth(clip.size_bytes - floor.kept_bytes, DAYS, _one_encode(floor), recipe.payback) for floor in floors
    ]
    return max(0, *(each.net_microusd for each in saved))
