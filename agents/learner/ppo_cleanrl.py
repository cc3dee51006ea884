"""PPO in one file, on tensors that stay on the world's device.

python -m worldsim.agents.learner.ppo_cleanrl --world doom-maze --timesteps 100000
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from worldsim.agents.learner.command import make_envs, read_options, save_policy
from worldsim.agents.learner.network import FrameEncoder
from worldsim.envs.action_repeat import ActionRepeat
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.utils.run_command import run_command

__all__ = ["ActorCritic", "Settings", "main", "train"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """PPO's knobs."""

    rollout: int = 64
    """Frames per episode and iteration."""
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 5e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5


@dataclass
class Rollout:
    """Experience of one rollout: every field [rollout, N, ...]."""

    frames: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    over: Tensor
    beyond: Tensor
    """The value of the last frame of an episode that was cut off; 0 elsewhere."""

    @classmethod
    def empty(cls, length: int, first: Tensor) -> Rollout:
        n, device = len(first), first.device
        zeros = [torch.zeros(length, n, device=device) for _ in range(5)]
        frames = torch.zeros(length, *first.shape, dtype=first.dtype, device=device)
        return cls(frames, torch.zeros(length, n, dtype=torch.int64, device=device), *zeros)


class ActorCritic(nn.Module):
    """Frames uint8 [B, H, W, 3] to a distribution over actions and a value [B]."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.encoder = FrameEncoder()
        self.actor = nn.Linear(self.encoder.width, actions)
        self.critic = nn.Linear(self.encoder.width, 1)
        nn.init.zeros_(self.actor.weight)  # begin with every action equally likely

    def forward(self, frames: Tensor) -> tuple[Categorical, Tensor]:
        features = self.encoder(frames)
        return Categorical(logits=self.actor(features)), self.critic(features).squeeze(-1)


def train(
    envs: EpisodeStatistics, policy: ActorCritic, timesteps: int, settings: Settings, seed: int
) -> list[float]:
    """Learn for ``timesteps`` frames in all; the mean reward per frame of each iteration."""
    optimizer = torch.optim.Adam(policy.parameters(), settings.learning_rate, eps=1e-5)
    frames, _ = envs.reset(seed=seed)
    history = []
    for iteration in range(max(1, timesteps // (settings.rollout * envs.num_envs))):
        rollout, frames, returns = collect(envs, policy, frames, settings)
        with torch.no_grad():
            advantages = estimate_advantages(rollout, policy(frames)[1], settings)
        loss = improve(policy, optimizer, rollout, advantages, settings)
        history.append(reward := float(rollout.rewards.mean()))
        mean = f", mean return {sum(returns) / len(returns):.3f}" if returns else ""
        ended = f"{len(returns)} episodes ended{mean}"
        print(f"iteration {iteration}: reward per frame {reward:.4f}, loss {loss:.4f}, {ended}", flush=True)
    return history


@torch.no_grad()
def collect(
    envs: EpisodeStatistics | ActionRepeat, policy: nn.Module, frames: Tensor, settings: Settings
) -> tuple[Rollout, Tensor, list[float]]:
    """Act for one rollout: it, the frames that it leads to, and the returns of the episodes that ended."""
    rollout = Rollout.empty(settings.rollout, frames)
    returns: list[float] = []
    for t in range(settings.rollout):
        choice, rollout.values[t] = policy(frames)
        rollout.frames[t], rollout.actions[t] = frames, choice.sample()
        rollout.log_probs[t] = choice.log_prob(rollout.actions[t])
        frames, rewards, terminated, truncated, info = envs.step(rollout.actions[t])
        over = terminated | truncated
        rollout.rewards[t], rollout.over[t] = rewards, over.float()
        if over.any():
            rollout.beyond[t] = policy(info["final_obs"])[1] * (truncated & ~terminated)
            returns += info["episode"]["r"][over].tolist()
    return rollout, frames, returns


def estimate_advantages(rollout: Rollout, next_values: Tensor, settings: Settings) -> Tensor:
    """Generalised advantage estimates [rollout, N]; ``next_values`` [N] are those after the last frame."""
    advantages = torch.zeros_like(rollout.rewards)
    running = torch.zeros_like(next_values)
    for t in reversed(range(len(advantages))):
        alive = 1 - rollout.over[t]
        future = alive * next_values + rollout.beyond[t]
        surprise = rollout.rewards[t] + settings.gamma * future - rollout.values[t]
        running = surprise + settings.gamma * settings.gae_lambda * alive * running
        advantages[t], next_values = running, rollout.values[t]
    return advantages


def improve(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    advantages: Tensor,
    settings: Settings,
) -> float:
    """Some epochs of clipped policy gradient over the rollout; the last loss."""
    batch = [x.flatten(0, 1) for x in (rollout.frames, rollout.actions, rollout.log_probs)]
    batch += [advantages.flatten(), (advantages + rollout.values).flatten()]
    loss = torch.zeros(())
    for _ in range(settings.epochs):
        order = torch.randperm(len(batch[0]), device=batch[0].device)
        for rows in order.chunk(settings.minibatches):
            loss = ppo_loss(policy, settings, *(x[rows] for x in batch))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()
    return float(loss.detach())


def ppo_loss(
    policy: nn.Module,
    settings: Settings,
    frames: Tensor,
    actions: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    returns: Tensor,
) -> Tensor:
    """Clipped surrogate, value error and entropy of a minibatch; all inputs [B, ...]."""
    choice, values = policy(frames)
    ratio = (choice.log_prob(actions) - old_log_probs).exp()
    scaled = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    gain = torch.minimum(ratio * scaled, clipped * scaled).mean()
    return settings.value * F.mse_loss(values, returns) - gain - settings.entropy * choice.entropy().mean()


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, learn, and save the policy where asked to."""
    options = read_options("Learn to act in a world with PPO, one file.", argv)
    torch.manual_seed(options.seed)
    envs = make_envs(options)
    policy = ActorCritic(len(envs.core.world.spec.control_space.discrete_actions)).to(envs.device)
    train(EpisodeStatistics(envs), policy, options.timesteps, Settings(rollout=options.rollout), options.seed)
    if options.out:
        save_policy(policy, options.out)
    envs.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
