"""One address for several engines, each a process of its own."""

from worldsim.bridge.router.router import Router

__all__ = ["Router"]
