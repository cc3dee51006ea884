"""Imagined worlds, many at once: worlds, sessions, snapshots."""

from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.engine.world import World, load

__all__ = ["Engine", "Session", "Step", "World", "load"]
