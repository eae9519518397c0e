"""Build images as a user does: ours from docker/Dockerfile, on bases made here of Debian's packages."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.docker.engine import FOLDER, EngineError, alone, environment, podman, require_containers, run
from tests.docker.image import PYTHON_IMAGE, ROOT, SERVICES, VERSION

_BASES: Final = Path(__file__).with_name("bases")
_BUILD_SECONDS: Final = 900.0  # it takes 2 minutes alone
_KEYS_OF_DEBIAN: Final = "debian-archive-keyring"
_OF_PIP: Final = {"index-url", "extra-index-url", "trusted-host", "cert", "proxy", "timeout", "default-timeout"}
DEBIANS_PYTHON: Final = "docker.io/library/python:3.13-slim-trixie"
# The targets of the Containerfile, by the names under which a registry has what they stand for.
BASES: Final = {
    f"docker.io/library/{PYTHON_IMAGE}": "python3.11",
    DEBIANS_PYTHON: "python3.13",
    f"docker.io/library/{SERVICES['postgres']['image']}": "postgres",
    f"docker.io/library/{SERVICES['redis']['image']}": "redis",
}


def build(name: str, tree: Path = ROOT, **arguments: str) -> str:
    """Build our image from a tree, with its Dockerfile and build arguments; return the build's output."""
    require_containers()
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    with alone():
        _make_bases()
        file = f"--file={tree / 'docker' / 'Dockerfile'}"
        return podman("build", *_as_pip_is_set(), *given, file, f"--tag={name}", str(tree), within=_BUILD_SECONDS)


def built() -> str:
    """Build our image from this tree, under the name that compose.yaml has it; layers that did not change are kept."""
    name = f"docker.io/library/reelkeeper:{VERSION}"
    build(name, COMMIT=commit())
    return name


def commit() -> str:
    """Return the commit of this tree."""
    return run("git", "-C", str(ROOT), "rev-parse", "HEAD").stdout.strip()


def _make_bases() -> None:
    """Make the base images that are not there yet."""
    if run("podman", "image", "exists", "localhost/debian", check=False).returncode:
        _import_debian()
    for name, target in BASES.items():
        if run("podman", "image", "exists", name, check=False).returncode:
            with _interpreter() as context:
                shutil.copy(_BASES / "Containerfile", context)
                shutil.copy(_BASES / "postgres.sh", context)
                podman(
                    *("build", *_as_apt_is_set(), f"--target={target}", f"--tag={name}", str(context)),
                    within=_BUILD_SECONDS,
                )


def _import_debian() -> None:
    """Make a bare Debian from the sources that this machine's apt reads."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as made:
        sources = [str(path) for path in _sources()]
        run("mmdebstrap", "--variant=minbase", "--include=ca-certificates", "trixie", made.name, *sources, within=600)
        podman("import", made.name, "localhost/debian")


def _sources() -> Iterator[Path]:
    """Yield this machine's lists of packages that are Debian's own, as a container can reach and check them."""
    etc = Path("/etc/apt")
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        text = path.read_text() if path.is_file() else ""
        if "deb" in text and "file:" not in text and ("igned-" not in text or _KEYS_OF_DEBIAN in text):
            yield path


@contextmanager
def _interpreter() -> Iterator[Path]:
    """Return a folder with the Python that runs the tests, without installed packages."""
    home = Path(sys.base_prefix)
    if sys.version_info[:2] != (3, 11) or home == Path("/usr"):
        raise EngineError(
            f"the base image of Python 3.11 is made from the interpreter of .venv, which is {sys.version.split()[0]} "
            f"in {home}: make .venv with a Python 3.11 that was built apart from /usr (PYTHON=python3.11 make ...)"
        )
    with tempfile.TemporaryDirectory(dir=environment()["TMPDIR"]) as folder:
        context = Path(folder)
        (context / "bin").mkdir()
        (context / "lib").mkdir()
        shutil.copy(home / "bin" / "python3.11", context / "bin")
        for library in (home / "lib").glob("libpython3.11.so*"):
            shutil.copy(library, context / "lib", follow_symlinks=False)
        left_out = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "tkinter", "__pycache__", "*.a")
        shutil.copytree(home / "lib" / "python3.11", context / "lib" / "python3.11", ignore=left_out, symlinks=True)
        yield context


def _as_pip_is_set() -> list[str]:
    """Let a build use the package index of this machine's pip, without keeping that in the image."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    lines = [line.partition("=") for line in said.stdout.splitlines()]
    found = {name.rpartition(".")[2]: value.strip("'") for name, _, value in lines}
    settings = FOLDER / "pip.conf"
    settings.write_text("\n".join(["[global]", *(f"{name} = {found[name]}" for name in sorted(_OF_PIP & set(found)))]))
    return _mounted({settings: "/etc/pip.conf"} | ({Path(found["cert"]): found["cert"]} if "cert" in found else {}))


def _as_apt_is_set() -> list[str]:
    """Let a build use the Debian mirror of this machine's apt."""
    lists = FOLDER / "sources"
    shutil.rmtree(lists, ignore_errors=True)
    lists.mkdir()
    for path in _sources():
        shutil.copy(path, lists)
    return _mounted({lists: "/etc/apt/sources.list.d", Path("/etc/apt/apt.conf.d"): "/etc/apt/apt.conf.d"})


def _mounted(places: dict[Path, str]) -> list[str]:
    return [
        "--pull=never",
        "--network=host",
        *(f"--volume={here}:{there}:{'O' if here.is_dir() else 'ro'}" for here, there in places.items()),
    ]
