"""Learners of a policy in dreams: PPO, and CMA-ES on a linear policy.

A controller that is linear on a world model's state and is evolved by CMA-ES: Ha and Schmidhuber (2018),
"World Models". CMA-ES: Hansen (2016), "The CMA Evolution Strategy: A Tutorial", by the package cma.

Shapes: D dreams, P candidates, S = D / P dreams of each, T decisions of a generation, L features of an
observation, C principal components, A actions.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from worldsim.agents.dreamer.policy import LatentPolicy
from worldsim.agents.learner import ppo_cleanrl
from worldsim.envs.action_repeat import ActionRepeat
from worldsim.errors import DependencyError, install

__all__ = ["EvolutionLearner", "Learner", "PpoLearner", "require_cma"]


class Learner(Protocol):
    """Improves the policy that it was made for."""

    decisions: int
    """Decisions that every dream plays in one iteration."""

    def improve(self, envs: ActionRepeat, observations: Tensor, share: float) -> Tensor:
        """Play and improve the policy once.

        Args:
            envs: the dreams.
            observations: their newest ones, float32 [D, L].
            share: part of the training that is over; 1 at its end.

        Returns:
            the newest observations after it.
        """


class PpoLearner:
    """PPO, with a learning rate that falls to a tenth.

    Args:
        policy: is improved.
        settings: PPO's.
    """

    def __init__(self, policy: LatentPolicy, settings: ppo_cleanrl.Settings) -> None:
        self._policy, self._settings, self.decisions = policy, settings, settings.rollout
        self._optimizer = torch.optim.Adam(policy.parameters(), settings.learning_rate, eps=1e-5)

    def improve(self, envs: ActionRepeat, observations: Tensor, share: float) -> Tensor:
        ppo = self._settings
        for group in self._optimizer.param_groups:
            group["lr"] = ppo.learning_rate * (1 - 0.9 * min(1.0, share))
        rollout, observations, _ = ppo_cleanrl.collect(envs, self._policy, observations, ppo)
        with torch.no_grad():
            advantages = ppo_cleanrl.estimate_advantages(rollout, self._policy(observations)[1], ppo)
        ppo_cleanrl.improve(self._policy, self._optimizer, rollout, advantages, ppo)
        return observations


class EvolutionLearner:
    """CMA-ES over the weights and biases of a policy's actor, (C + 1) x A numbers.

    A generation is P candidates. Each plays T decisions in S dreams of its own; its fitness is the mean
    reward of a decision. All candidates meet the same chance (common random numbers): their dreams have the
    same seeds, and their actions are drawn by the same uniform numbers; each generation has new ones. After
    each generation the policy gets the mean of the search distribution.

    Args:
        policy: without layers; the search begins at its actor.
        rng: chance of the search and of the dreams.
        population: candidates, P; the number of dreams must be a multiple of it.
        generation: decisions, T.
        sigma: standard deviation of the first generation's weights.

    Raises:
        DependencyError: the package cma is not installed.
    """

    def __init__(
        self,
        policy: LatentPolicy,
        rng: np.random.Generator,
        *,
        population: int,
        generation: int,
        sigma: float,
    ) -> None:
        self._policy, self._rng, self._population, self.decisions = policy, rng, population, generation
        begin = parameters_to_vector(policy.actor.parameters()).detach().double().cpu().numpy()
        options = {
            "popsize": population,
            "verbose": -9,  # it prints nothing and writes no files
            "randn": lambda *shape: rng.standard_normal(shape),
            "seed": math.nan,  # NumPy's global generator is left alone
        }
        self._search = require_cma().CMAEvolutionStrategy(begin, sigma, options)

    @torch.no_grad()
    def improve(self, envs: ActionRepeat, observations: Tensor, share: float) -> Tensor:
        candidates = self._search.ask()
        rewards, observations = self._play(envs, np.stack(candidates))
        self._search.tell(candidates, (-rewards).tolist())
        weight, bias = self._actors(self._search.result.xfavorite)
        self._policy.actor.weight.copy_(weight)
        self._policy.actor.bias.copy_(bias)
        return observations

    def _play(self, envs: ActionRepeat, candidates: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean reward of a decision float32 [P] of candidates [P, (C + 1) * A], and the last observations."""
        weights_PAC, biases_PA = self._actors(candidates)
        dreams = envs.num_envs // len(candidates)
        first = int(self._rng.integers(2**31 - dreams))
        observations, _ = envs.reset(seed=list(range(first, first + dreams)) * len(candidates))
        drawn = self._rng.random((self.decisions, dreams, 1), dtype=np.float32)
        drawn_TS1 = torch.from_numpy(drawn).to(weights_PAC.device)
        total = torch.zeros(len(observations), device=weights_PAC.device)
        for drawn_S1 in drawn_TS1:
            components_PSC = self._policy.encode(observations).unflatten(0, (len(candidates), dreams))
            logits_PSA = torch.einsum("psc,pac->psa", components_PSC, weights_PAC) + biases_PA[:, None]
            thresholds_PSA = logits_PSA.softmax(-1).cumsum(-1)[..., :-1]
            actions_PS = (thresholds_PSA <= drawn_S1).sum(-1)  # inverse of the distribution function
            observations, rewards, *_ = envs.step(actions_PS.flatten())
            total += rewards
        return total.unflatten(0, (len(candidates), dreams)).mean(1) / self.decisions, observations

    def _actors(self, vectors: np.ndarray) -> tuple[Tensor, Tensor]:
        """Weights float32 [..., A, C] and biases float32 [..., A] of vectors [..., (C + 1) * A]."""
        weight = self._policy.actor.weight
        numbers = torch.from_numpy(vectors).to(weight.device, weight.dtype)
        return numbers[..., : weight.numel()].unflatten(-1, weight.shape), numbers[..., weight.numel() :]


def require_cma() -> Any:
    """The module cma. Raises DependencyError where it is missing."""
    try:
        with warnings.catch_warnings(action="ignore"):  # it has no plots without matplotlib
            import cma
    except ImportError as error:
        raise DependencyError("CMA-ES needs the package cma", None, install("train")) from error
    return cma
