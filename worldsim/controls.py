"""Controls: keys, yaw, a pose, a prompt, a continuous action; and the space of the controls of a world.

NumPy only, so that a robot's client, the window and the recording workers can use it without torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from worldsim.action_box import MAX_ACTION, ActionBox, read_action
from worldsim.errors import ControlError, nearest

__all__ = [
    "MAX_ACTION",
    "MAX_PROMPT",
    "ActionBox",
    "Control",
    "ControlLike",
    "ControlSpace",
    "check_chunk",
    "check_chunks",
    "check_mapping",
]

MAX_PROMPT = 256
"""Characters of the longest prompt."""

_NATURAL = 'write Control({"forward"}), or {"forward"}'


@dataclass(frozen=True, eq=False)
class Control:
    """Condition of one frame: the keys that are down while it is reached, yaw, pose, prompt, action.

    Where signals disagree: explicit pose > keys and yaw > prompt. The continuous action stands beside them.

    Raises:
        ControlError: keys that are no collection of names, a yaw that is not finite, a pose of another shape
            than [4, 4] or with NaN in it, a prompt that is no text, or an action that is no list of finite
            numbers. ``camera.check_pose`` checks that the pose is a rotation.
    """

    keys: frozenset[str] = field(default_factory=frozenset)
    """Names of the keys that are down; also any iterable of str, or a mapping from names to bool."""
    pose: np.ndarray | None = None
    """``float64 [4, 4]`` camera-to-world pose of the new frame, or None."""
    yaw: float = 0.0
    """Yaw of this frame in radians; positive turns right."""
    prompt: str | None = None
    """One of the world's prompts; None: unknown."""
    action: tuple[float, ...] | None = None
    """Continuous action, rounded to float32; given as a list or an array [n]. None: unknown."""

    def __init__(
        self,
        keys: Iterable[str] = (),
        pose: np.ndarray | None = None,
        yaw: float = 0.0,
        prompt: str | None = None,
        action: Iterable[float] | None = None,
    ) -> None:
        set_field = object.__setattr__  # the instance is frozen
        set_field(self, "keys", _checked_keys(keys))
        set_field(self, "pose", None if pose is None else _checked_pose(pose))
        set_field(self, "yaw", _checked_yaw(yaw))
        set_field(self, "prompt", _checked_prompt(prompt))
        set_field(self, "action", None if action is None else read_action(action))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Control):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        pose = None if self.pose is None else tuple(self.pose.ravel().tolist())
        return self.keys, pose, self.yaw, self.prompt, self.action


ControlLike: TypeAlias = Control | str | Iterable[str] | Mapping[str, bool] | int | np.ndarray | None
"""All forms of a control that ``ControlSpace.control`` reads."""


@dataclass(frozen=True, kw_only=True)
class ControlSpace:
    """The controls that a world takes.

    Raises:
        ControlError: repeated keys or prompts, a prompt that is empty or too long, a combination of unknown
            keys, or a first combination that is not empty.
    """

    retired: ClassVar[Mapping[str, Any]] = {"prompt": False}
    """Keys of older files, with the one value that may be left out; see ``config.from_dict``."""

    keys: tuple[str, ...]
    """Names of the keys, in the order of the control vector."""
    yaw: bool
    """True if the world takes continuous yaw."""
    pose: bool
    """True if the world takes explicit poses."""
    discrete_actions: tuple[tuple[str, ...], ...]
    """The discrete actions, each the keys that it holds; number 0 is ``()``, no key."""
    prompts: tuple[str, ...] = ()
    """The prompts that the world takes, in the order of their numbers; () takes none."""
    action: ActionBox | None = None
    """The continuous actions that the world takes; None: it takes none."""

    def __post_init__(self) -> None:
        if len(set(self.keys)) != len(self.keys):
            raise ControlError("a control space must name each key once", self.keys)
        if not self.discrete_actions or self.discrete_actions[0] != ():
            raise ControlError("the first combination must be (), no key", self.discrete_actions[:1])
        for combo in self.discrete_actions:
            self._check_keys(combo)
        if len(set(self.prompts)) != len(self.prompts):
            raise ControlError("a control space must name each prompt once", self.prompts)
        if not all(0 < len(prompt) <= MAX_PROMPT for prompt in self.prompts):
            raise ControlError(f"a prompt must have 1 to {MAX_PROMPT} characters", self.prompts)

    @property
    def channels(self) -> dict[str, slice]:
        """The columns of each channel of the control vector, in order: keys, yaw, then prompt and action.

        Prompt and action are there where the space takes them. In a channel after the yaw, columns of 0 mean
        that it is unknown.
        """
        widths = {"keys": len(self.keys), "yaw": 1} | ({"prompt": 1} if self.prompts else {})
        if self.action is not None:
            widths["action"] = self.action.size + 1
        ends = list(itertools.accumulate(widths.values(), initial=0))
        return {name: slice(*ends[i : i + 2]) for i, name in enumerate(widths)}

    @property
    def motion_size(self) -> int:
        """Length of the part of the control vector that moves the camera: the keys, then the yaw."""
        return len(self.keys) + 1

    @property
    def size(self) -> int:
        """Length M of the control vector: the columns of all channels."""
        action = 0 if self.action is None else self.action.size + 1
        return self.motion_size + bool(self.prompts) + action

    def validate(self, control: Control) -> None:
        """Check that the space takes ``control``.

        Raises:
            ControlError: an unknown key (the nearest is named), an unknown prompt (all known are listed), an
                action of another length or out of its bounds, or a yaw, a pose, a prompt or an action where
                the space takes none.
        """
        self._check_keys(control.keys)
        if control.yaw and not self.yaw:
            raise ControlError("this world takes no yaw", control.yaw, "turn with its keys")
        if control.pose is not None and not self.pose:
            raise ControlError("this world takes no explicit pose", "a pose", "steer with its keys")
        self.prompt_number(control.prompt)
        if control.action is not None:
            if self.action is None:
                remedy = "steer with its keys"
                raise ControlError("this world takes no continuous action", control.action[:8], remedy)
            self.action.validate(control.action)

    def prompt_number(self, prompt: str | None) -> int:
        """Number of a prompt as it stands in the control vector: from 1; 0 for None, the unknown.

        Raises:
            ControlError: an unknown prompt (the known ones are listed).
        """
        if prompt is None:
            return 0
        if not self.prompts:
            raise ControlError("this world takes no prompt", prompt, "steer with its keys")
        if prompt not in self.prompts:
            remedy = f"choose from {', '.join(map(repr, self.prompts))}"
            raise ControlError("a prompt must be one of the world's", prompt, remedy)
        return self.prompts.index(prompt) + 1

    def control(self, given: ControlLike) -> Control:
        """The control that ``given`` stands for, validated.

        Args:
            given: a Control; the name of a key, or a collection of names; names with whether each is down;
                the number of a discrete action; an array of a pose [4, 4], of key states [n_keys], of keys
                and yaw [n_keys + 1], or a vector [M]; or None: no key.

        Raises:
            ControlError: none of these, or a control that the space does not take.
        """
        control = self._read(given)
        self.validate(control)
        return control

    def rows(self, given: Any, count: int) -> np.ndarray:
        """``float32 [count, M]``: a vector for each frame, of an array [count, M] or of one control a frame.

        Raises:
            ControlError: another number of controls or of columns, numbers that are not finite, or a control
                that the space does not take.
        """
        if given is None:
            given = [None] * count
        array = _numbers(given)
        if array is not None and array.shape[1:] == (self.size,):
            vectors = array.astype(np.float32)
        elif isinstance(given, str | Mapping | Control) or not hasattr(given, "__len__"):
            rule = "controls must be an array or a list, one a frame"
            raise ControlError(rule, given, f"write controls=[...] with {count} controls")
        else:
            vectors = np.array([self.vector(self.control(one)) for one in given], np.float32)
        if len(vectors) != count:
            raise ControlError(f"controls of {count} frames must be {count}", len(vectors), "one a frame")
        if not np.isfinite(vectors).all():
            raise ControlError("controls must be finite", vectors.tolist())
        channels = self.channels
        for number in np.unique(vectors[:, channels["prompt"]]) if self.prompts else ():
            self._prompt_of(number)
        if self.action is not None:
            self.action.check_rows(vectors[:, channels["action"]])
        return vectors

    def multi_hot(self, control: Control) -> np.ndarray:
        """``float32 [n_keys]``: 1 for each key that is down. Validates."""
        self.validate(control)
        return np.array([key in control.keys for key in self.keys], dtype=np.float32)

    def vector(self, control: Control) -> np.ndarray:
        """``float32 [M]``: keys as 0 or 1, yaw in radians, the prompt's number, the action. Validates.

        Prompt and action are there where the space takes them; an action is 1 and its numbers, or all 0.
        """
        moved = np.append(self.multi_hot(control), np.float32(control.yaw))
        further: list[float] = [self.prompt_number(control.prompt)] if self.prompts else []
        if self.action is not None:
            further += self.action.columns(control.action)
        return np.append(moved, np.array(further, np.float32)) if further else moved

    def from_discrete(self, index: int) -> Control:
        """The control of discrete action ``index`` in [0, len(discrete_actions))."""
        if not 0 <= index < len(self.discrete_actions):
            raise ControlError(f"a discrete action must be in 0..{len(self.discrete_actions) - 1}", index)
        return Control(self.discrete_actions[int(index)])

    def from_multi_binary(self, array: np.ndarray) -> Control:
        """The control of a 0/1 array ``[n_keys]``, of any number or bool dtype."""
        values = np.asarray(array)
        if values.shape != (len(self.keys),):
            raise ControlError(f"key states must have shape ({len(self.keys)},)", values.shape)
        if not np.isin(values, (0, 1)).all():
            raise ControlError("key states must be 0 or 1", values.tolist())
        return Control(self.keys_of(values))

    def keys_of(self, vector: np.ndarray) -> frozenset[str]:
        """The keys that are down (above one half) in a ``[n_keys]`` or ``[M]`` vector."""
        values = np.asarray(vector)
        if values.shape not in ((len(self.keys),), (self.size,)):
            raise ControlError(f"a control vector must have shape ({self.size},)", values.shape)
        return frozenset(key for key, value in zip(self.keys, values, strict=False) if value > 0.5)

    def from_vector(self, vector: np.ndarray) -> Control:
        """The control of a ``[M]`` vector, the inverse of :meth:`vector`."""
        values = np.asarray(vector)
        if values.shape != (self.size,):
            raise ControlError(f"a control vector must have shape ({self.size},)", values.shape)
        if not np.isfinite(values).all():
            raise ControlError("a control vector must be finite", values.tolist())
        channels, prompt, action = self.channels, None, None
        if self.prompts:
            prompt = self._prompt_of(values[self.motion_size])
        if self.action is not None:
            action = self.action.from_columns(values[channels["action"]])
        return Control(self.keys_of(values), yaw=float(values[len(self.keys)]), prompt=prompt, action=action)

    def _prompt_of(self, number: float) -> str | None:
        """The prompt of a number in the control vector; ControlError if there is none."""
        if number != int(number) or not 0 <= number <= len(self.prompts):
            raise ControlError(f"a prompt's number must be in 0..{len(self.prompts)}", float(number))
        return self.prompts[int(number) - 1] if number else None

    def _read(self, given: Any) -> Control:
        if given is None:
            return Control()
        if isinstance(given, Control):
            return given
        if isinstance(given, str):
            return Control({given})
        if isinstance(given, bool | np.bool_ | float | np.floating):
            raise ControlError("a control must be keys, a number of an action or an array", given, _NATURAL)
        if isinstance(given, int | np.integer):
            return self.from_discrete(int(given))
        if hasattr(given, "__array__") or (isinstance(given, Sequence) and len(given)):
            array = _numbers(given)
            if array is not None:
                return self._read_array(array)
        if isinstance(given, Iterable):
            return Control(given)
        raise ControlError("a control must be keys, a number of an action or an array", given, _NATURAL)

    def _read_array(self, given: np.ndarray) -> Control:
        if given.shape == (4, 4):
            return Control(pose=given)
        if given.shape == () and given.dtype.kind in "iu":
            return self.from_discrete(int(given))
        if given.shape == (self.motion_size,):  # without a prompt and an action
            given = np.append(given, np.zeros(self.size - self.motion_size, given.dtype))
        if given.shape == (self.size,):
            return self.from_vector(given)
        if given.shape == (len(self.keys),):
            return self.from_multi_binary(given)
        rule = f"an array must be a pose (4, 4), keys ({len(self.keys)},) or a vector ({self.size},)"
        raise ControlError(rule, given.shape, _NATURAL)

    def _check_keys(self, keys: Iterable[str]) -> None:
        for key in sorted(keys):
            if key not in self.keys:
                raise ControlError("a key must be one of the world's", key, nearest(key, self.keys))


def check_mapping(controls: Any) -> None:
    """Raises ControlError where a step of many sessions is not given as session -> control."""
    if not isinstance(controls, Mapping):
        rule, remedy = "a step needs a control for each session", "give {session: Control(...), ...}"
        raise ControlError(rule, type(controls).__name__, remedy)


def check_chunks(chunks: Any) -> None:
    """Raises ControlError where chunks of many sessions are not given as session -> list of controls."""
    check_mapping(chunks)
    for chunk in chunks.values():
        check_chunk(chunk)


def check_chunk(chunk: Any) -> None:
    """Raises ControlError where a chunk is not given as a list of controls."""
    is_one = isinstance(chunk, str | Mapping | Control)
    if is_one or not (hasattr(chunk, "__getitem__") and hasattr(chunk, "__len__")):
        rule, remedy = "a chunk must be a list of controls, one a frame", 'write [{"forward"}, {"forward"}]'
        raise ControlError(rule, chunk, remedy)


def _numbers(given: Any) -> np.ndarray | None:
    """``given`` as an array of numbers; None where it holds something else."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # lists of different lengths, a tensor on a GPU
        return None
    return array if array.dtype.kind in "biuf" else None


def _checked_keys(keys: Iterable[str]) -> frozenset[str]:
    if isinstance(keys, str):
        raise ControlError("keys must be a collection of names", keys, f"write keys={{{keys!r}}}")
    try:
        held = [name for name, is_down in keys.items() if is_down] if isinstance(keys, Mapping) else keys
        names = frozenset(held)
    except (TypeError, ValueError) as error:  # an array is neither down nor up
        raise ControlError("keys must be a collection of names", keys) from error
    if not all(isinstance(name, str) for name in names):
        raise ControlError("keys must be names", names, "see ControlSpace.keys_of for arrays")
    return names


def _checked_pose(pose: np.ndarray) -> np.ndarray:
    try:
        matrix = np.array(pose, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ControlError("a pose must be a 4x4 matrix of numbers", pose) from error
    if matrix.shape != (4, 4):
        raise ControlError("a pose must have shape (4, 4)", matrix.shape)
    if not np.isfinite(matrix).all():
        raise ControlError("a pose must be finite", matrix.tolist())
    matrix.flags.writeable = False
    return matrix


def _checked_prompt(prompt: str | None) -> str | None:
    if prompt is not None and not isinstance(prompt, str):
        raise ControlError("a prompt must be a text or None", prompt)
    return prompt


def _checked_yaw(yaw: float) -> float:
    try:
        angle = float(yaw)
    except (TypeError, ValueError) as error:
        raise ControlError("yaw must be an angle in radians", yaw) from error
    if not math.isfinite(angle):
        raise ControlError("yaw must be finite", angle)
    return angle
