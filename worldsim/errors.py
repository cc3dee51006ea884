"""Typed errors. Each states the rule that was broken, the value that broke it, and what to do."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "BridgeError",
    "CameraError",
    "CheckpointError",
    "ConfigError",
    "ControlError",
    "DataError",
    "DependencyError",
    "EngineError",
    "SourceError",
    "StorageError",
    "WorldsimError",
    "install",
    "nearest",
]

_CLONE = Path(__file__).parent.parent


class WorldsimError(Exception):
    """An error that a user can fix.

    Args:
        rule: what must hold, e.g. "a key must be one of the world's keys".
        value: what was given instead; left out of the message where it is None.
        remedy: what to do about it; left out where it is empty.
    """

    def __init__(self, rule: str, value: object = None, remedy: str = "") -> None:
        super().__init__(rule, value, remedy)
        self.rule = rule
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        got = "" if self.value is None else f"got {self.value!r}"
        return "; ".join(part for part in (self.rule, got, self.remedy) if part)


class ControlError(WorldsimError):
    """A control that the control space does not allow."""


class CameraError(WorldsimError):
    """A pose, twist or intrinsics that describe no camera."""


class ConfigError(WorldsimError):
    """A configuration with an unknown key, a wrong type or a value out of range."""


class DataError(WorldsimError):
    """A dataset that is missing, damaged or of another kind than asked for."""


class CheckpointError(WorldsimError):
    """A world that is unknown, damaged or written by another version."""


class EngineError(WorldsimError):
    """A request that the engine cannot serve: no free slot, a closed session, too far a rewind."""


class SourceError(WorldsimError):
    """A source that is unknown or that failed."""


class StorageError(WorldsimError):
    """A file or a folder that cannot be made, read or written, or that must not be overwritten."""

    @classmethod
    def of(cls, error: OSError, place: str | os.PathLike[str] | None = None) -> StorageError:
        """Make one of an OSError. ``place`` is named if the error names no file."""
        where = error.filename if error.filename is not None else place
        reason = error.strerror or str(error) or type(error).__name__
        value = reason if where is None else f"{os.fspath(where)}: {reason}"
        return cls("the system must allow what a command does", value, _REMEDIES.get(error.errno, ""))


_REMEDIES: dict[int | None, str] = {
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "make room on the disk, or choose another place",
    errno.EDQUOT: "make room on the disk, or choose another place",
    errno.ENOENT: "make its folder, or choose another place",
    errno.ENOTDIR: "choose a place within a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files: ulimit -n",
}
"""Remedies for errors of the system, by errno."""


class BridgeError(WorldsimError):
    """A request over the wire that was refused, a reply that did not come, or a message that is malformed.

    Args:
        rule, value, remedy: see :class:`WorldsimError`.
        code: the protocol's word for it; ``docs/protocol.md`` lists them.
        retry_after_ms: milliseconds after which to retry the same request, if known.
    """

    def __init__(
        self,
        rule: str,
        value: object = None,
        remedy: str = "",
        *,
        code: str = "BAD_REQUEST",
        retry_after_ms: float | None = None,
    ) -> None:
        super().__init__(rule, value, remedy)
        self.code = code
        self.retry_after_ms = retry_after_ms


class DependencyError(WorldsimError):
    """An optional package that is not installed; the remedy is a line of :func:`install`."""


def install(*extras: str, package: str = "") -> str:
    """The command that installs what is missing: extras of this project, or another project's ``package``.

    Extras are installed from the clone: on PyPI the name ``worldsim`` belongs to a stranger's package.
    """
    if package:
        return f"pip install {package}"
    wanted = f"[{','.join(extras)}]" if extras else ""
    if (_CLONE / "pyproject.toml").is_file():
        return f"pip install -e '{_CLONE}{wanted}'"
    return f"pip install -e '.{wanted}' in a clone of worldsim"


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is most similar to ``name``, as a remedy; list all if none is similar."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(names)}" if names else "there are none to choose from"
