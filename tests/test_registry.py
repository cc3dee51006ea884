"""Parts by name: in the table, in configs, in what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import pytest

from worldsim import config, registry
from worldsim.errors import ConfigError
from worldsim.registry import Part, config_class, find_part, import_parts, names, register


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


MODULE = """
from dataclasses import dataclass
from worldsim.registry import register

@register("reward", "{name}")
@dataclass(frozen=True)
class Mine:
    each: float = 2.0
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder in which a module may lie; what is imported from it is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_searched", [])
    monkeypatch.setenv("WORLDSIM_IMPORT", "")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("parts_")]:
        del sys.modules[name]


def test_a_module_of_the_current_folder_brings_its_parts(modules: Path) -> None:
    (modules / "parts_here.py").write_text(MODULE.format(name="here"))
    assert find_part("reward", "parts_here:here").__name__ == "Mine"
    assert find_part("reward", "here") is config_class("reward", "here")
    with pytest.raises(ConfigError, match="did you mean 'here'"):
        find_part("reward", "parts_here:her")


def test_processes_started_later_find_the_parts(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (modules / "parts_later.py").write_text(MODULE.format(name="later"))
    with pytest.raises(ConfigError):
        config_class("reward", "later")
    import_parts("parts_later")
    del sys.modules["parts_later"]
    monkeypatch.delitem(registry._classes, ("reward", "later"))
    monkeypatch.setattr(registry, "_searched", [])  # as in a process that has just begun
    assert config_class("reward", "later").__name__ == "Mine"


def test_a_module_that_is_not_there_or_fails_is_one_error(modules: Path) -> None:
    (modules / "parts_broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"must import.*no_such_parts"):
        find_part("reward", "no_such_parts:coins")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        import_parts("parts_broken")


def test_installed_packages_are_found_by_their_entry_points(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "parts_installed.py").write_text(MODULE.format(name="installed"))
    points = [EntryPoint("mine", "parts_installed", "worldsim.parts")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "worldsim.parts" else [])
    assert "installed" in names("reward")


def test_a_config_names_no_module(modules: Path) -> None:
    (modules / "parts_hidden.py").write_text(MODULE.format(name="hidden"))
    with pytest.raises(ConfigError):
        config.from_dict(Task, {"reward": {"type": "parts_hidden:hidden"}})
    assert "parts_hidden" not in sys.modules
