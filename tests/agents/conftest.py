"""A player over the fake engine, for every test of the window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.agents.fake_engine import FakeSource, fake_world
from worldsim.agents.human.player import WorldPlayer
from worldsim.agents.human.reference_run import ReferenceRun

SMALL = (12, 16)


@pytest.fixture
def make_player() -> Callable[..., WorldPlayer]:
    """Makes players; ``engine`` sets the fake engine's fields, the rest goes to WorldPlayer."""

    def make(
        size: tuple[int, int] = SMALL, engine: dict[str, Any] | None = None, **options: Any
    ) -> WorldPlayer:
        world = fake_world(size)
        fake = world.engine(slots=4)
        for name, value in (engine or {}).items():
            setattr(fake, name, value)
        options.setdefault("open_reference", lambda: ReferenceRun(FakeSource(world.spec)))
        return WorldPlayer(world, fake, **options)

    return make


@pytest.fixture
def player(make_player: Callable[..., WorldPlayer]) -> WorldPlayer:
    """A player whom a person steers."""
    return make_player()
