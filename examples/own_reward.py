"""Rewards and ends of your own: a function, an object with a memory, and a rule for a whole batch.

python examples/own_reward.py --world doom-maze
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium
import numpy as np
import torch

from worldsim import Step
from worldsim.envs.reward import BatchedRewardFn


def brightness(step: Step) -> tuple[float, bool]:
    """A function of the step: the mean brightness of the frame in [0, 1]. It ends nothing."""
    return float(step.frame.mean()) / 255, False


class Novelty:
    """An object that remembers: 1 for a picture that differs from all that this episode has shown.

    Each environment of a vector gets a copy of its own.
    """

    def __init__(self, threshold: float = 8.0) -> None:
        self.threshold = threshold
        """Mean absolute difference in grey levels that counts as new."""
        self.seen: list[np.ndarray] = []

    def reset(self, step: Step) -> None:
        """Begin an episode with its first frame."""
        self.seen = [self._small(step)]

    def __call__(self, step: Step) -> tuple[float, bool]:
        """The reward of the frame; the episode ends after 32 new pictures."""
        small = self._small(step)
        is_new = min(float(np.abs(small - other).mean()) for other in self.seen) > self.threshold
        if is_new:
            self.seen.append(small)
        return float(is_new), len(self.seen) > 32

    @staticmethod
    def _small(step: Step) -> np.ndarray:
        return step.frame[::8, ::8].astype(np.float32)


darkness = BatchedRewardFn(lambda steps: (1 - steps.frame.float().mean((1, 2, 3)) / 255, steps.terminated))
"""A rule for the whole batch: tensors in, tensors out, on the world's device. Ends are the world's own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Step a single environment and two vectors; print their mean rewards."""
    parser = argparse.ArgumentParser(description="Rewards and ends of your own.")
    parser.add_argument("--world", default="doom-maze", help="name or folder (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="frames of each (default: %(default)s)")
    options = parser.parse_args(arguments)

    env = gymnasium.make("worldsim:WorldsimWorld-v0", world=options.world, reward_fn=brightness)
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = [env.step(env.action_space.sample())[1] for _ in range(options.frames)]
    env.close()
    print(f"brightness: {np.mean(rewards):.3f}")

    for name, rule in (("novelty", Novelty()), ("darkness", darkness)):
        envs = gymnasium.make_vec(
            "worldsim:WorldsimWorld-v0", num_envs=4, world=options.world, reward_fn=rule
        )
        envs.reset(seed=0)
        envs.action_space.seed(0)
        rewards = [torch.as_tensor(envs.step(envs.action_space.sample())[1]) for _ in range(options.frames)]
        envs.close()
        print(f"{name}: {torch.stack(rewards).float().mean():.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
