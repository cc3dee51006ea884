"""Which packages are installed, and what is compiled: what pyproject.toml has no words for.

Every folder with an __init__.py is a package; the three outer folders are worldsim.*, which cannot be found
and renamed there. The kernels need a C compiler; without one all else is installed, and a CPU is slower.
"""

from pathlib import Path

from setuptools import Extension, find_packages, setup

packages = find_packages(include=["worldsim", "worldsim.*"])
for room in ("agents", "checkpoints", "envs"):
    packages += [f"worldsim.{room}", *(f"worldsim.{room}.{inner}" for inner in find_packages(room))]

sources = Path("worldsim/kernels/c")
# Sums may be contracted, never reordered. OpenMP's threads are torch's own where it has them.
compiled = Extension(
    "worldsim.kernels.compiled",
    sources=sorted(map(str, sources.glob("*.c"))),
    depends=sorted(map(str, sources.glob("*.h"))),
    extra_compile_args=[
        *("-std=gnu11", "-O3", "-fopenmp", "-Wno-psabi"),
        *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    ],
    extra_link_args=["-fopenmp"],
    optional=True,
)

setup(packages=packages, ext_modules=[compiled])
