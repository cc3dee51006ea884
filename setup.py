"""Which packages are installed: every folder with an __init__.py; the three outer folders as worldsim.*.

All else is in pyproject.toml, which can find packages under their own names, but not find and rename them.
"""

from setuptools import find_packages, setup

packages = find_packages(include=["worldsim", "worldsim.*"])
for room in ("agents", "checkpoints", "envs"):
    packages += [f"worldsim.{room}", *(f"worldsim.{room}.{inner}" for inner in find_packages(room))]

setup(packages=packages)
