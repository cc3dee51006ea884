"""Real environments that worlds are learnt from, behind one protocol."""

from __future__ import annotations

from worldsim.envs.sources.registry import make_source, source_names
from worldsim.envs.sources.source import Observation, Source

__all__ = ["Observation", "Source", "make_source", "source_names"]
