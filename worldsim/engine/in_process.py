"""Base of objects that belong to one process."""

from __future__ import annotations

from typing import ClassVar, NoReturn

from worldsim.errors import EngineError


class InProcess:
    """Refuses to be pickled or copied: it holds locks, addresses of kernels, or another's memory."""

    copying_remedy: ClassVar[str] = "pickle its World, and sessions by Session.snapshot()"

    def __reduce__(self) -> NoReturn:
        """Refuse.

        Raises:
            EngineError: always.
        """
        kind = type(self).__name__
        raise EngineError("what an engine holds must stay in its process", kind, self.copying_remedy)
