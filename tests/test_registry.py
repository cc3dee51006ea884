"""Parts by name: in the table, in configs, in what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from worldsim import config, registry
from worldsim.errors import ConfigError
from worldsim.registry import Part, config_class, names, register


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    monkeypatch.setattr(registry, "_names", dict(registry._names))
    register("reward", "coins")(Coins)
    register("reward", "steps")(Steps)


@dataclass(frozen=True)
class Coins:
    each: float = 1.0


@dataclass(frozen=True)
class Steps:
    cost: float = 0.1
    inner: Annotated[Any, Part("reward")] | None = None


@dataclass(frozen=True)
class Task:
    reward: Annotated[Any, Part("reward")] = field(default_factory=Coins)
    spare: Annotated[Any, Part("reward")] | None = None
    more: tuple[Annotated[Any, Part("reward")], ...] = ()


def test_names_lead_to_classes() -> None:
    assert names("reward") == ("coins", "steps")
    assert config_class("reward", "steps") is Steps
    with pytest.raises(ConfigError, match="did you mean 'coins'"):
        config_class("reward", "coin")


def test_a_name_is_given_once_and_to_a_dataclass() -> None:
    register("reward", "coins")(Coins)  # the same class again
    with pytest.raises(ConfigError, match="must be free"):
        register("reward", "coins")(Steps)
    with pytest.raises(ConfigError, match="dataclass"):
        register("reward", "none")(int)
    with pytest.raises(ConfigError, match="kind"):
        register("rewards", "coins")


def test_parts_survive_a_dict_with_their_types() -> None:
    task = Task(Steps(cost=0.5, inner=Coins(2.0)), None, (Coins(3.0), Steps()))
    told = config.to_dict(task)
    assert told["reward"] == {"type": "steps", "cost": 0.5, "inner": {"type": "coins", "each": 2.0}}
    assert [row["type"] for row in told["more"]] == ["coins", "steps"]
    assert config.from_dict(Task, told) == task
    assert config.from_dict(Coins, config.to_dict(Coins(2.0))) == Coins(2.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "coin"}, "did you mean 'coins'"),
        ({"each": 1.0}, "must name its type"),
        ({"type": "coins", "eahc": 1.0}, "did you mean 'each'"),
        ("coins", "must be an object"),
        (3, "must be an object"),
    ],
)
def test_a_part_that_cannot_be_is_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.from_dict(Task, {"reward": given})


def test_overrides_reach_into_parts_and_replace_them() -> None:
    task = Task(Steps(inner=Coins()))
    assert config.override(task, {"reward.inner.each": "4"}).reward.inner == Coins(4.0)
    assert config.override(task, {"reward": '{"type": "coins", "each": 2}'}).reward == Coins(2.0)
    assert config.override(task, {"spare": Coins(5.0)}).spare == Coins(5.0)
    with pytest.raises(ConfigError, match="did you mean 'cost'"):
        config.override(task, {"reward.costs": "1"})
