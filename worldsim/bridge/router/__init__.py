"""Router: one address for several engine processes."""

from worldsim.bridge.router.router import Router

__all__ = ["Router"]
