"""A player over the fake engine, for every test of the window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.agents.fake_engine import FakeSource, fake_world
from worldsim.agents.human.compare import Twin
from worldsim.agents.human.player import Player

SMALL = (12, 16)


@pytest.fixture
def make_player() -> Callable[..., Player]:
    """Makes players; ``engine`` sets the fake engine's fields, the rest goes to Player."""

    def make(size: tuple[int, int] = SMALL, engine: dict[str, Any] | None = None, **options: Any) -> Player:
        world = fake_world(size)
        fake = world.engine(slots=4)
        for name, value in (engine or {}).items():
            setattr(fake, name, value)
        options.setdefault("open_twin", lambda: Twin(FakeSource(world.spec)))
        return Player(world, fake, **options)

    return make


@pytest.fixture
def player(make_player: Callable[..., Player]) -> Player:
    """A player whom a person steers."""
    return make_player()
