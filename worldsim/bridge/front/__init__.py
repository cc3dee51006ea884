"""One address for several engines, each a process of its own."""

from worldsim.bridge.front.front import Front

__all__ = ["Front"]
