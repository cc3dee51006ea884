"""What the single and the vector environment share: a world, its engine, and the way in and out of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from worldsim.engine.world import load
from worldsim.envs.actions import Actions, make_actions
from worldsim.envs.reset_options import Start
from worldsim.errors import ConfigError

if TYPE_CHECKING:
    from worldsim.engine import Session, Step, World

__all__ = ["Dream", "View", "draw_seed"]


@dataclass(frozen=True)
class View:
    """What is seen at one frame of an imagined episode.

    ``frame`` is uint8 [H, W, 3] and ``pose`` float64 [4, 4], or None in a world without a camera. Both are
    copies that nobody else writes to.
    """

    frame: np.ndarray
    pose: np.ndarray | None
    pose_given: bool
    drift: float
    frame_index: int
    seed: int

    @classmethod
    def at_start(cls, session: Session) -> View:
        """The frame that a session stands at before its first step."""
        return cls(
            session.frame.copy(), _copied(session.pose), False, 0.0, int(session.index), int(session.seed)
        )

    @classmethod
    def after(cls, step: Step, session: Session) -> View:
        """The frame that ``step`` of ``session`` led to."""
        return cls(
            step.frame.copy(),
            _copied(step.pose),
            bool(step.pose_given),
            float(step.drift),
            int(step.index),
            int(session.seed),
        )

    def info(self) -> dict[str, Any]:
        """Gymnasium's ``info``: all but the frame; no ``pose`` in a world without a camera."""
        info: dict[str, Any] = {} if self.pose is None else {"pose": self.pose}
        return info | {
            "pose_given": self.pose_given,
            "drift": self.drift,
            "frame_index": self.frame_index,
            "seed": self.seed,
        }


class Dream:
    """A world behind ``slots`` episodes, with its Gymnasium spaces.

    Args:
        world: the name or the folder of a world, or one that is loaded already.
        slots: how many episodes may be open at once.
        actions: "discrete", "multi_binary", "box" or "dict"; see ``worldsim.envs.actions``.
        steps: denoising steps per frame (K): 1, 2 or 4.
        device: where to load the world, "auto" or a torch device; unused for a loaded world.
        drift_limit: truncate an episode once its drift passes this; None never does.
    """

    def __init__(
        self,
        world: str | os.PathLike[str] | World,
        *,
        slots: int,
        actions: str,
        steps: int,
        device: str,
        drift_limit: float | None,
    ) -> None:
        if drift_limit is not None and not drift_limit > 0:
            raise ConfigError("drift_limit must be above 0", drift_limit, "pass None for no limit")
        self.world = load(world, device=device) if isinstance(world, str | os.PathLike) else world
        self.engine = self.world.engine(slots=slots, steps=steps)
        self.actions: Actions = make_actions(actions, self.world.spec.control_space)
        self.observation_space = spaces.Box(0, 255, (*self.world.spec.size, 3), np.uint8)
        self._drift_limit = drift_limit

    @property
    def fps(self) -> int:
        """The world's frame rate, rounded: Gymnasium's tools need an integer."""
        return max(1, round(self.world.spec.fps))

    def open(self, seed: int, start: Start) -> tuple[Session, View]:
        """Begin an episode: its session, and what is seen before the first step."""
        session = self.engine.open(seed=seed, start=start)
        return session, View.at_start(session)

    def lost(self, view: View) -> bool:
        """Whether the episode has drifted too far from what the world learnt to be worth going on."""
        return self._drift_limit is not None and view.drift > self._drift_limit


def draw_seed(rng: np.random.Generator) -> int:
    """The seed of the next episode, in [0, 2**31)."""
    return int(rng.integers(2**31))


def _copied(pose: np.ndarray | None) -> np.ndarray | None:
    return None if pose is None else np.array(pose, np.float64)
