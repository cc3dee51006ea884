"""Gymnasium action spaces over a world's controls, and what each action means.

Every kind decodes to the same ``Control``:

discrete      ``Discrete(n)`` over the world's key combinations; 0 is no key.
multi_binary  ``MultiBinary(n_keys)``, one bit a key.
box           ``Box(-1, 1, (n_keys [+ 1],))``: a key is down where its entry is above zero; a world that
              takes yaw has a last entry, the yaw of this frame in units of ``MAX_YAW`` radians, right is
              positive.
dict          ``Dict(keys: MultiBinary, pose: PoseSpace, action: Box)``; ``pose`` and ``action`` only for
              worlds that take them.
continuous    ``Box(low, high, (n,))``, the continuous action of a world that takes one; no key is down. It is
              what such a world offers unless another kind is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import count
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from worldsim.controls import ActionBox, Control, ControlSpace
from worldsim.envs.pose_space import PoseSpace
from worldsim.errors import ConfigError, ControlError

MAX_YAW = 0.3
"""Radians for a yaw entry of 1 in the box actions: about as fast as the recordings turn."""

# Key codes as ``gymnasium.utils.play`` expects them: characters, and the arrows' SDL codes.
_LEFT, _RIGHT, _UP, _DOWN = 1073741904, 1073741903, 1073741906, 1073741905
_KEY_CODES: Mapping[str, int] = {
    "forward": ord("w"),
    "backward": ord("s"),
    "strafe_left": ord("a"),
    "strafe_right": ord("d"),
    "turn_left": _LEFT,
    "turn_right": _RIGHT,
    "left": _LEFT,
    "right": _RIGHT,
    "up": _UP,
    "down": _DOWN,
}


class Actions(ABC):
    """One way to write a world's controls as Gymnasium actions.

    Attributes:
        space: the action space of a single environment.
    """

    kind: ClassVar[str]

    def __init__(self, controls: ControlSpace, space: spaces.Space[Any]) -> None:
        self.controls = controls
        self.space = space

    @abstractmethod
    def decode(self, action: Any) -> Control:
        """The control that ``action`` stands for; ControlError or CameraError where it stands for none."""

    @abstractmethod
    def encode(self, combo: int) -> Any:
        """The action that presses the world's key combination number ``combo``."""

    def keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Keyboard codes, sorted, to actions: the mapping that ``gymnasium.utils.play`` asks for.

        No key is no entry there: pass ``play`` the action for it, ``encode(0)``, as its ``noop``.
        """
        spare = map(ord, (str(n) for n in count(1)))
        codes = {key: _KEY_CODES[key] if key in _KEY_CODES else next(spare) for key in self.controls.keys}
        return {
            tuple(sorted(codes[key] for key in combo)): self.encode(i)
            for i, combo in enumerate(self.controls.discrete_actions)
            if combo
        }

    def _bits(self, combo: int) -> np.ndarray:
        return self.controls.multi_hot(self.controls.from_discrete(combo)).astype(np.int8)


class DiscreteActions(Actions):
    """Numbers of key combinations."""

    kind = "discrete"

    def __init__(self, controls: ControlSpace) -> None:
        super().__init__(controls, spaces.Discrete(len(controls.discrete_actions)))
        self._table = [controls.from_discrete(i) for i in range(len(controls.discrete_actions))]

    def decode(self, action: Any) -> Control:
        array = np.asarray(action)
        if array.size != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ControlError(
                rule="a discrete action is one integer",
                value=action,
                remedy=f"pass a number from 0 to {len(self.controls.discrete_actions) - 1}",
            )
        number = int(array.item())
        return self._table[number] if 0 <= number < len(self._table) else self.controls.from_discrete(number)

    def encode(self, combo: int) -> int:
        return combo


class MultiBinaryActions(Actions):
    """One bit a key."""

    kind = "multi_binary"

    def __init__(self, controls: ControlSpace) -> None:
        super().__init__(controls, spaces.MultiBinary(len(controls.keys)))

    def decode(self, action: Any) -> Control:
        return self.controls.from_multi_binary(np.asarray(action))

    def encode(self, combo: int) -> np.ndarray:
        return self._bits(combo)


class BoxActions(Actions):
    """Numbers in [-1, 1]: keys by their sign, then the yaw."""

    kind = "box"

    def __init__(self, controls: ControlSpace) -> None:
        self._shape = (len(controls.keys) + int(controls.yaw),)
        super().__init__(controls, spaces.Box(-1.0, 1.0, self._shape, np.float32))

    def decode(self, action: Any) -> Control:
        array = np.asarray(action, dtype=np.float64)
        if array.shape != self._shape or not np.isfinite(array).all():
            raise ControlError(
                rule=f"a box action is {self._shape} finite numbers",
                value=f"shape {array.shape}: {array}",
                remedy="pass one number a key, and the yaw last where the world has one",
            )
        keys = self.controls.from_multi_binary((array[: len(self.controls.keys)] > 0).astype(np.int8)).keys
        yaw = float(np.clip(array[-1], -1, 1) * MAX_YAW) if self.controls.yaw else 0.0
        return Control(keys=keys, yaw=yaw)

    def encode(self, combo: int) -> np.ndarray:
        action = np.zeros(self._shape, np.float32)
        action[: len(self.controls.keys)] = self._bits(combo)
        return action


class ContinuousActions(Actions):
    """The world's continuous action.

    Raises:
        ConfigError: the world takes none.
    """

    kind = "continuous"

    def __init__(self, controls: ControlSpace) -> None:
        if controls.action is None:
            rule = "continuous actions need a world whose source has them"
            raise ConfigError(rule, self.kind, f"choose from {', '.join(KINDS)}")
        space = _box_space(controls.action)
        super().__init__(controls, space)
        self._box = controls.action
        self._rest: np.ndarray = np.clip(np.zeros_like(space.low), space.low, space.high)

    def decode(self, action: Any) -> Control:
        control = Control(action=action)
        assert control.action is not None
        self._box.validate(control.action)
        return control

    def encode(self, combo: int) -> np.ndarray:
        """The action nearest to 0, for combination 0: no continuous action presses a key."""
        if combo:
            raise ControlError("a continuous action presses no key", combo, "choose actions='discrete'")
        return self._rest.copy()

    def keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Empty: no key is pressed."""
        return {}


class DictActions(Actions):
    """Keys, a camera pose and a continuous action.

    A missing, None or all-zero pose leaves the camera to the keys; an action may be missing or None: unknown.
    """

    kind = "dict"

    def __init__(self, controls: ControlSpace) -> None:
        parts: dict[str, spaces.Space[Any]] = {"keys": spaces.MultiBinary(len(controls.keys))}
        if controls.pose:
            parts["pose"] = PoseSpace()
        if controls.action is not None:
            parts["action"] = _box_space(controls.action)
        super().__init__(controls, spaces.Dict(parts))

    def decode(self, action: Any) -> Control:
        if not isinstance(action, Mapping) or not action.keys() <= {"keys", "pose", "action"}:
            raise ControlError(
                rule="a dict action has the entries 'keys', 'pose' and 'action', or some of them",
                value=list(action) if isinstance(action, Mapping) else action,
                remedy="pass {'keys': bits, 'pose': 4x4 matrix}",
            )
        bits = action.get("keys")
        keys = frozenset[str]() if bits is None else self.controls.from_multi_binary(np.asarray(bits)).keys
        pose = PoseSpace.given(action.get("pose"))
        control = Control(keys=keys, pose=pose, action=action.get("action"))
        self.controls.validate(control)
        return control

    def encode(self, combo: int) -> dict[str, np.ndarray]:
        """The action that presses a combination; a continuous action is left out, and so unknown."""
        action = {"keys": self._bits(combo)}
        if self.controls.pose:
            action["pose"] = np.zeros((4, 4))
        return action


def _box_space(box: ActionBox) -> spaces.Box:
    return spaces.Box(np.array(box.low, np.float32), np.array(box.high, np.float32), dtype=np.float32)


_KINDS: tuple[type[DiscreteActions | MultiBinaryActions | BoxActions | DictActions], ...]
_KINDS = (DiscreteActions, MultiBinaryActions, BoxActions, DictActions)
KINDS = tuple(kind.kind for kind in _KINDS)
"""Kinds that every world offers."""


def make_actions(kind: str | None, controls: ControlSpace) -> Actions:
    """The actions named ``kind`` over ``controls``, one of ``KINDS`` or "continuous".

    None: "continuous" where the world takes continuous actions, else "discrete".

    Raises:
        ConfigError: another name, or "continuous" for a world that takes none.
    """
    if kind is None:
        kind = "discrete" if controls.action is None else ContinuousActions.kind
    for candidate in (*_KINDS, ContinuousActions):
        if candidate.kind == kind:
            return candidate(controls)
    rule = f"actions is one of {', '.join((*KINDS, ContinuousActions.kind))}"
    raise ConfigError(rule, kind, "choose one of these")
