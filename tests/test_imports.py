"""Who may import whom: a layer may reach downwards, never upwards, and siblings never reach each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import worldsim
from tests.source_tree import modules, tree

LAYERS = (
    {"checkpoints", "errors"},
    {"registry"},
    {"utils", "utils.run_command", "utils.output_paths"},
    {"config", "options", "batch_invariant", "action_box"},
    {"camera", "controls", "units", "casting"},
    {"kernels"},
    {"pixels", "untrusted", "context"},
    {"bridge.wire.protocol"},
    {"bridge.client"},
    {"bridge.wire", "bridge.auth"},
    {"bridge.journal"},
    {"scene"},
    {"tokenizer", "model", "data"},
    {"sampling.protocol"},
    {"sampling.flow"},
    {"sampling.remainder_flow", "sampling.bernoulli", "sampling.next_scale"},
    {"parts"},
    {"networks"},
    {"sampling", "checkpoint"},
    {"engine", "training", "evaluation"},
    {"bridge.server"},
    {"bridge.router"},
    {"cli", "bench", "bridge", "compression"},
    {"envs"},
    {"agents", "play", "testing"},
)
"""Rooms, lowest first."""

SIBLINGS = {("evaluation", "engine")}
"""Allowed although on one layer: the evaluation suite measures the engine."""

LATE = {
    ("cli", "envs"),
    ("cli", "agents"),
    ("evaluation", "envs"),
    ("evaluation", "agents"),
    ("bench", "envs"),
}
"""Allowed inside functions only: the command line calls commands, the evaluation suite plays the source and
lets policies play.
"""

ONLY = {"bridge.client": {"bridge.wire.protocol", "controls", "errors"}}
"""Rooms that are held shorter than their layer: a robot's computer installs little."""

NUMPY_ONLY = (
    "errors", "registry", "utils.run_command", "utils.output_paths", "config", "options", "camera",
    "controls", "action_box",
    "units", "context", "bridge.wire.protocol", "bridge.client",
)  # fmt: skip
HEAVY = {"torch", "pygame", "gymnasium", "vizdoom"}

RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
MODULES = modules()


def room_of(module: str) -> str | None:
    """The room that an installed module belongs to; None for the root package."""
    parts = module.removeprefix("worldsim").lstrip(".").split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in RANK), None)


def imports(module: str, path: Path) -> Iterator[tuple[str, bool, int]]:
    """(imported name, whether inside a function, line) of every import; ``from a import b`` gives a.b."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]

    def visit(node: ast.AST, late: bool) -> Iterator[tuple[str, bool, int]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, late, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = [*parents, *([node.module] if node.module else [])]
            yield from ((".".join([*base, alias.name]), late, node.lineno) for alias in node.names)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late)

    return visit(tree(path), False)


def complaint(room: str, target: str, late: bool) -> str | None:
    """Why ``room`` may not import ``target``; None where it may."""
    if room == target or (room, target) in SIBLINGS or (late and (room, target) in LATE):
        return None
    if room in ONLY:
        return None if target in ONLY[room] else f"may import only {', '.join(sorted(ONLY[room]))}"
    if RANK[target] > RANK[room]:
        return "lies above it"
    if RANK[target] == RANK[room]:
        return "is its sibling"
    return None


def target_of(name: str) -> str | None:
    """The room that an imported name leads into, through the lazy names of the root package too."""
    if not name.startswith("worldsim."):
        return None
    attribute = name.removeprefix("worldsim.")
    return room_of(worldsim._HOMES.get(attribute, name))


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(set(MODULES) - {"worldsim"}))
def test_a_room_imports_only_what_lies_below_it(module: str) -> None:
    room = room_of(module)
    if module == "worldsim.bridge":
        room = "bridge.wire.protocol"  # the package itself is imported with each of its modules
    assert room, f"{module} is in no room: give it one in LAYERS"
    for name, late, line in imports(module, MODULES[module]):
        target = target_of(name)
        reason = complaint(room, target, late) if target else None
        assert reason is None, f"{module}:{line} imports {name}, but {target} {reason} ({room})"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_light_rooms_import_nothing_heavy(module: str) -> None:
    if room_of(module) in NUMPY_ONLY:
        names = {name.split(".")[0] for name, _, _ in imports(module, MODULES[module])}
        assert not names & HEAVY, f"{module} imports {names & HEAVY}"


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_read_that_could_run_code(module: str) -> None:
    names = {name.split(".")[0] for name, _, _ in imports(module, MODULES[module])}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "msgpack_numpy"}
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save"):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            assert owner != "torch", f"{module}:{node.lineno} uses torch.{node.attr}: write safetensors"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            refused = isinstance(node.value, ast.Constant) and node.value.value is False
            assert refused, f"{module}:{node.value.lineno} allows pickles"


@pytest.mark.parametrize(
    ("room", "target", "late", "allowed"),
    [
        ("engine", "sampling", False, True),
        ("engine", "errors", False, True),
        ("sampling", "engine", True, False),
        ("model", "data", False, False),
        ("evaluation", "engine", False, True),
        ("engine", "evaluation", False, False),
        ("cli", "envs", True, True),
        ("cli", "envs", False, False),
        ("evaluation", "envs", True, True),
        ("evaluation", "envs", False, False),
        ("envs", "bridge.client", False, True),
        ("bridge.client", "bridge.wire.protocol", False, True),
        ("bridge.client", "camera", False, False),
    ],
)
def test_the_rule_itself(room: str, target: str, late: bool, allowed: bool) -> None:
    assert (complaint(room, target, late) is None) == allowed


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("worldsim.engine.world.World", "engine"),
        ("worldsim.checkpoint", "checkpoint"),
        ("worldsim.checkpoints.FOLDER", "checkpoints"),
        ("worldsim.bridge.client.Client", "bridge.client"),
        ("worldsim.load", "engine"),
        ("worldsim.Context", "context"),
        ("numpy.load", None),
        ("worldsim", None),
    ],
)
def test_names_lead_into_rooms(name: str, room: str | None) -> None:
    assert target_of(name) == room


def test_relative_imports_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "b.py"
    path.write_text("from . import c\nfrom ..engine import d\ndef f():\n    import worldsim.envs\n")
    assert list(imports("worldsim.data.b", path)) == [
        ("worldsim.data.c", False, 1),
        ("worldsim.engine.d", False, 2),
        ("worldsim.envs", True, 4),
    ]


def test_the_names_that_type_checkers_see_are_the_lazy_ones() -> None:
    seen = {name for name, _, _ in imports("worldsim", MODULES["worldsim"])}
    assert {f"{home}.{name}" for name, home in worldsim._HOMES.items()} <= seen
    assert set(worldsim.__all__) == set(worldsim._HOMES)


def test_importing_worldsim_brings_nothing_heavy() -> None:
    light = "worldsim, worldsim.cli, worldsim.camera, worldsim.config, worldsim.controls, worldsim.units"
    code = f"import sys, {light}; print(*(set(sys.modules) & {{'torch', 'pygame', 'vizdoom'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
