"""``make wheels``: what to carry to a machine that has a GPU, PyTorch and no network.

Fills ``.whl/`` for Python 3.12 on Linux, and says whether tree and wheels together are small enough to carry.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["CARRIED", "main", "missing", "weigh"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".whl"
LIMIT = 64 * 2**20
"""Bytes of tree and wheels that are carried at most."""

CARRIED = (
    *("gymnasium", "farama-notifications", "vizdoom", "ale-py", "pyzmq", "msgspec"),
    *("pynacl", "cffi", "pycparser"),
)
"""Packages that images with PyTorch for GPUs lack."""
PRESENT = (
    *("numpy", "torch", "einops", "safetensors", "rich", "pillow", "pyarrow", "tensorboard", "pytest"),
    *("hypothesis", "msgpack", "prometheus-client", "cloudpickle", "typing-extensions", "setuptools"),
)
"""Packages that they have; the environment part of a run tries each."""
SPARED = ("pygame-ce", "av", "cma")
"""Packages that a run does not need: for windows, videos, evolved policies."""

_GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)
_TAGS = re.compile(r"(cp312|cp3\d+-abi3|py3)-.*(manylinux|none-any)")


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the folder, check it and weigh it; 1 where something is missing or all is too much."""
    parser = argparse.ArgumentParser(prog="make wheels", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fetch nothing, only check and weigh")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args(argv)
    if not args.check:
        fill(args.folder)
    lacking = missing(args.folder)
    for problem in lacking:
        print(f"missing: {problem}", file=sys.stderr)
    print(weigh(args.folder))
    return 1 if lacking else 0


def fill(folder: Path) -> None:
    """Fetch the wheels, in the versions that the tests pass with."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    line += ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    for minor in _GLIBC:
        line += ["--platform", f"manylinux_2_{minor}_x86_64"]
    line += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    line += ["--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder), *CARRIED]
    subprocess.run(line, check=True)


def missing(folder: Path = FOLDER) -> list[str]:
    """Return what a run would lack."""
    wheels = {_plain(path.name.split("-")[0]): path for path in folder.glob("*.whl")}
    lacking = [f"a wheel of {name}" for name in CARRIED if name not in wheels]
    for name, path in wheels.items():
        if not _TAGS.search(path.stem):
            lacking.append(f"{path.name} is not for Python 3.12 on Linux")
        known = {*wheels, *PRESENT, *SPARED}
        lacking += [f"{need}, which {name} needs" for need in _needs(path) if need not in known]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["doom"], *extras["bridge"], *extras["train"]}
    wanted = {_name(text) for text in wanted}
    lacking += [f"{name}, which the project needs" for name in sorted(wanted - {*CARRIED, *PRESENT, *SPARED})]
    return lacking


def weigh(folder: Path = FOLDER, limit: int = LIMIT) -> str:
    """Return the size of tree and wheels, and the files to move aside where it is too much."""
    wheels = sum(path.stat().st_size for path in folder.glob("*.whl"))
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    sizes = {name: (ROOT / name).stat().st_size for name in set(listed) if name and (ROOT / name).is_file()}
    whole = wheels + sum(sizes.values())
    told = [f"wheels {wheels / 2**20:.1f} MiB, tree {sum(sizes.values()) / 2**20:.1f} MiB"]
    if whole <= limit:
        return f"{told[0]}: fits {limit / 2**20:.0f} MiB"
    told[0] += f": {(whole - limit) / 2**20:.1f} MiB more than {limit / 2**20:.0f} MiB; move aside:"
    for name, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
        if whole <= limit:
            break
        told.append(f"  {name} ({size / 2**20:.1f} MiB)")
        whole -= size
    return "\n".join(told)


def _needs(wheel: Path) -> list[str]:
    """Names that a wheel requires without extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    required = [line.partition(":")[2] for line in lines if line.startswith("Requires-Dist:")]
    return [_name(text) for text in required if "extra" not in text.partition(";")[2]]


def _name(requirement: str) -> str:
    found = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    assert found is not None
    return _plain(found[1])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
