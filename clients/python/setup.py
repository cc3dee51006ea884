"""Modules of the client: a part of the whole project's own sources, nothing copied.

Build it in a clone, where the sources lie beside it: ``pip install ./clients/python``.
"""

from setuptools import setup
from setuptools.command.build_py import build_py

MODULES = {
    "worldsim": {"__init__", "errors", "action_box", "controls", "camera"},
    "worldsim.bridge": {"__init__"},
    "worldsim.bridge.wire": {"__init__", "protocol"},
}
"""Package -> its modules that are taken; of packages not named here all are."""


class BuildClient(build_py):
    """Leaves out the modules that need the engine."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """(package, module, file) of all that is installed of ``package``."""
        found = super().find_package_modules(package, package_dir)
        return [entry for entry in found if entry[1] in MODULES.get(package, {entry[1]})]


setup(packages=[*MODULES, "worldsim.bridge.client"], cmdclass={"build_py": BuildClient})
