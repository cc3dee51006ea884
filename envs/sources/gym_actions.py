"""Keys and continuous actions for the action spaces of Gymnasium environments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldsim.controls import MAX_ACTION, ActionBox, Control, ControlSpace
from worldsim.errors import SourceError

__all__ = ["ActionMap", "make_action_map"]

_AXIS_KEYS: dict[str, tuple[tuple[str | None, str], ...]] = {
    "CarRacing": (("steer_left", "steer_right"), (None, "gas"), (None, "brake")),
    "Pendulum": (("torque_clockwise", "torque_anticlockwise"),),
    "MountainCarContinuous": (("push_left", "push_right"),),
    "LunarLander": ((None, "main_engine"), ("left_engine", "right_engine")),
}
"""Names of the keys for the low and the high end of each axis, where an environment documents them."""

_ACTION_KEYS: dict[str, tuple[str, ...]] = {
    "CartPole": ("push_left", "push_right"),
    "MountainCar": ("push_left", "noop", "push_right"),
    "Acrobot": ("torque_minus", "noop", "torque_plus"),
    "LunarLander": ("noop", "left_engine", "main_engine", "right_engine"),
    "CarRacing": ("noop", "steer_right", "steer_left", "gas", "brake"),
}
"""Names of discrete actions, where an environment documents them in words only."""

_MOST_PAIRS = 1000
_NOOPS = {"noop", "no_op", "none", "nothing", "idle", "do_nothing", "stay"}


@dataclass(frozen=True)
class ActionMap:
    """From a control to an action."""

    space: ControlSpace
    action: Callable[[Control], Any]


def make_action_map(env: gymnasium.Env[Any, Any], env_id: str) -> ActionMap:
    """The keys of an environment, and its continuous action where it takes one.

    A discrete action is a key; of several that are down, the first counts. No key is the action that does
    nothing, or action 0 where all do something. A continuous axis has a key for each end, a binary one a
    key. Of several discrete actions that are taken at once, each is as if it were alone. Spaces of more axes
    are read in their order of memory. Keys are ignored where a control has a continuous action.

    In a Tuple or Dict each part has its own keys, which begin with its number or name; there is no
    continuous action.

    Raises:
        SourceError: another kind of action space, or an axis without bounds.
    """
    space = env.action_space
    family = env_id.split("/")[-1].split(":")[-1].split("-")[0]
    if isinstance(space, spaces.Discrete):
        return _discrete(space, _action_names(env, family, int(space.n)))
    return _map_of(space, _AXIS_KEYS.get(family))


def _map_of(space: spaces.Space[Any], names: tuple[tuple[str | None, str], ...] | None = None) -> ActionMap:
    """The keys of a space; ``names`` are those of a box's axes."""
    if isinstance(space, spaces.Discrete):
        return _discrete(space, tuple(f"action_{i}" for i in range(int(space.n))))
    if isinstance(space, spaces.MultiBinary):
        return _multi_binary(space)
    if isinstance(space, spaces.MultiDiscrete):
        return _multi_discrete(space)
    if isinstance(space, spaces.Box):
        return _box(space, names)
    if isinstance(space, spaces.Tuple):
        parts = {str(i): _map_of(part) for i, part in enumerate(space.spaces)}
        return _joint(parts, lambda actions: tuple(actions.values()))
    if isinstance(space, spaces.Dict):
        return _joint({str(name): _map_of(part) for name, part in space.spaces.items()}, dict)
    rule = "a source's actions must be Discrete, MultiBinary, MultiDiscrete, Box, or a Tuple or Dict of these"
    raise SourceError(rule, str(space), "wrap the environment")


def _joint(parts: Mapping[str, ActionMap], pack: Callable[[dict[str, Any]], Any]) -> ActionMap:
    """Keys of all parts, each after its part's name; ``pack`` makes an action of those of the parts."""
    own = {name: {f"{name}_{key}": key for key in part.space.keys} for name, part in parts.items()}
    combinations = [
        tuple(f"{name}_{key}" for key in combo)
        for name, part in parts.items()
        for combo in part.space.discrete_actions
    ]
    across = _combinations([list(keys) for keys in own.values()])
    control_space = ControlSpace(
        keys=tuple(itertools.chain(*own.values())),
        yaw=False,
        pose=False,
        discrete_actions=tuple(dict.fromkeys((*across, *combinations))),
    )

    def action(control: Control) -> Any:
        down = {name: Control(keys[key] for key in keys if key in control.keys) for name, keys in own.items()}
        return pack({name: part.action(down[name]) for name, part in parts.items()})

    return ActionMap(control_space, action)


def _discrete(space: spaces.Discrete, names: tuple[str, ...]) -> ActionMap:
    idle = next((i for i, name in enumerate(names) if name in _NOOPS), 0)
    has_noop = names[idle] in _NOOPS
    index = {name: i for i, name in enumerate(names) if not (has_noop and i == idle)}
    keys = tuple(index)

    def action(control: Control) -> Any:
        down = next((index[key] for key in keys if key in control.keys), idle)
        return space.start + down

    discrete_actions = ((), *((key,) for key in keys))
    return ActionMap(
        ControlSpace(keys=keys, yaw=False, pose=False, discrete_actions=discrete_actions), action
    )


def _multi_binary(space: spaces.MultiBinary) -> ActionMap:
    keys = tuple(f"button_{i}" for i in range(math.prod(space.shape)))
    control_space = ControlSpace(
        keys=keys, yaw=False, pose=False, discrete_actions=((), *((key,) for key in keys))
    )

    def action(control: Control) -> Any:
        return control_space.multi_hot(control).astype(space.dtype).reshape(space.shape)

    return ActionMap(control_space, action)


def _multi_discrete(space: spaces.MultiDiscrete) -> ActionMap:
    """Keys for each axis but for its first action, which no key stands for; the axis may be any array."""
    counts = space.nvec.ravel()
    axes = [[f"axis{axis}_action{i}" for i in range(1, count)] for axis, count in enumerate(counts)]
    control_space = ControlSpace(
        keys=tuple(itertools.chain(*axes)), yaw=False, pose=False, discrete_actions=_combinations(axes)
    )

    def action(control: Control) -> Any:
        down = [next((i for i, key in enumerate(keys, 1) if key in control.keys), 0) for keys in axes]
        return (space.start + np.reshape(down, space.nvec.shape)).astype(space.dtype)

    return ActionMap(control_space, action)


def _box(space: spaces.Box, names: tuple[tuple[str | None, str], ...] | None) -> ActionMap:
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise SourceError("a continuous action must have bounds", str(space), "wrap the environment")
    rest = np.clip(0.0, low, high)
    ends: dict[str, tuple[int, float]] = {}
    axes: list[list[str]] = []
    for axis in range(len(low)):
        minus, plus = names[axis] if names else (f"axis{axis}_minus", f"axis{axis}_plus")
        found = {minus: low[axis], plus: high[axis]}
        mine = {key: end for key, end in found.items() if key is not None and end != rest[axis]}
        ends.update({key: (axis, float(end)) for key, end in mine.items()})
        axes.append(list(mine))

    def action(control: Control) -> Any:
        if control.action is not None:
            return np.clip(control.action, low, high).astype(space.dtype).reshape(space.shape)
        value = rest.copy()
        for key in ends:
            if key in control.keys:
                axis, end = ends[key]
                value[axis] += end - rest[axis]
        return np.clip(value, low, high).astype(space.dtype).reshape(space.shape)

    control_space = ControlSpace(
        keys=tuple(ends),
        yaw=False,
        pose=False,
        discrete_actions=_combinations(axes),
        action=_action_box(low, high),
    )
    return ActionMap(control_space, action)


def _action_box(low: np.ndarray, high: np.ndarray) -> ActionBox | None:
    """The continuous actions between two bounds; None where float32 does not tell these apart."""
    with np.errstate(over="ignore"):
        narrow = low.astype(np.float32), high.astype(np.float32)
    fits = np.isfinite(narrow).all() and (narrow[0] < narrow[1]).all() and 1 <= len(low) <= MAX_ACTION
    return ActionBox(low=tuple(low.tolist()), high=tuple(high.tolist())) if fits else None


def _combinations(axes: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    """No key, each key, and each pair of keys of two axes, unless these are too many to be tried."""
    singles = [(key,) for axis in axes for key in axis]
    pairs = [pair for a, b in itertools.combinations(axes, 2) for pair in itertools.product(a, b)]
    return ((), *singles, *(pairs if len(pairs) <= _MOST_PAIRS else ()))


def _action_names(env: gymnasium.Env[Any, Any], family: str, n: int) -> tuple[str, ...]:
    """Names of ``n`` discrete actions: the environment's meanings, documentation or keys, or numbers."""
    base = env.unwrapped
    names: list[str] = []
    if hasattr(base, "get_action_meanings"):
        names = [str(name).lower().replace(" ", "_") for name in base.get_action_meanings()]
    elif family in _ACTION_KEYS:
        names = list(_ACTION_KEYS[family])
    elif hasattr(base, "get_keys_to_action"):
        names = _names_of_keys(base.get_keys_to_action(), n)
    is_usable = len(names) == n and len(set(names)) == n
    return tuple(names) if is_usable else tuple(f"action_{i}" for i in range(n))


def _names_of_keys(keys_to_action: dict[Any, Any], n: int) -> list[str]:
    """Names such as "key_w" or "key_a_w" from the characters or codes that ``gymnasium.utils.play`` takes."""
    names = [f"action_{i}" for i in range(n)]
    for keys, action in keys_to_action.items():
        parts = [keys] if isinstance(keys, str | int) else list(keys)
        text = [chr(part) if isinstance(part, int) and 32 < part < 127 else str(part) for part in parts]
        if isinstance(action, int | np.integer) and 0 <= action < n:
            names[action] = "_".join(["key", *text]) if text else "noop"
    return names
