"""TorchRL's PPO inside a world.

python -m worldsim.agents.learner.ppo_torchrl --world doom-maze --timesteps 100000
"""

from __future__ import annotations

from collections.abc import Sequence

from worldsim.agents.learner.command import make_envs, read_options, save_policy
from worldsim.agents.learner.network import FrameEncoder
from worldsim.envs.torchrl import TorchRLEnv  # first, for it says what to install where TorchRL is missing
from worldsim.utils.run_command import run_command

# isort: split
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, RewardSum, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

__all__ = ["main", "make_policy", "train"]

_EPOCHS, _MINIBATCHES = 4, 4


class _Frames(nn.Module):
    """The learners' frame encoder for any leading dimensions: TorchRL hands over [N, T, H, W, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = FrameEncoder()

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.encoder(pixels.flatten(0, -4))
        return features.unflatten(0, pixels.shape[:-3])


def make_policy(actions: int) -> tuple[ProbabilisticActor, TensorDictSequential]:
    """An actor over ``actions`` discrete actions and a critic, which see through the same encoder."""
    frames = _Frames()
    width = frames.encoder.width
    seen = TensorDictModule(frames, in_keys=["pixels"], out_keys=["features"])
    head = nn.Linear(width, actions)
    nn.init.zeros_(head.weight)  # begin with every action equally likely
    logits = TensorDictModule(head, in_keys=["features"], out_keys=["logits"])
    actor = ProbabilisticActor(
        TensorDictSequential(seen, logits),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    return actor, TensorDictSequential(seen, ValueOperator(nn.Linear(width, 1), in_keys=["features"]))


def train(
    envs: EnvBase, actor: ProbabilisticActor, critic: TensorDictSequential, timesteps: int, rollout: int
) -> list[float]:
    """Learn for ``timesteps`` frames in all; the mean reward per frame of each iteration."""
    frames = rollout * envs.batch_size.numel()
    iterations = max(1, timesteps // frames)
    collector = Collector(
        TransformedEnv(envs, RewardSum()),
        actor,
        frames_per_batch=frames,
        total_frames=iterations * frames,
        auto_register_policy_transforms=False,
    )
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, critic_coeff=0.5, normalize_advantage=True)
    advantages = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), 5e-4, eps=1e-5)
    history = []
    for iteration, batch in enumerate(collector):
        with torch.no_grad():
            advantages(batch)
        improve(loss, optimizer, batch.reshape(-1))
        history.append(reward := float(batch["next", "reward"].mean()))
        returns = batch["next", "episode_reward"][batch["next", "done"]]
        mean = f", mean return {float(returns.mean()):.3f}" if len(returns) else ""
        ended = f"{len(returns)} episodes ended{mean}"
        print(f"iteration {iteration}: reward per frame {reward:.4f}, {ended}", flush=True)
    collector.shutdown(close_env=False)
    return history


def improve(loss: ClipPPOLoss, optimizer: torch.optim.Optimizer, batch: TensorDictBase) -> None:
    """Some epochs of clipped policy gradient over a batch [rollout * N]."""
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(batch), device=batch.device).chunk(_MINIBATCHES):
            losses = loss(batch[rows])
            total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, learn, and save the policy where asked to."""
    options = read_options("Learn to act in a world with TorchRL's PPO.", argv)
    torch.manual_seed(options.seed)
    envs = TorchRLEnv(make_envs(options, autoreset_mode="Disabled"))
    envs.set_seed(options.seed)
    actor, critic = (part.to(envs.device) for part in make_policy(envs.action_spec.space.n))
    train(envs, actor, critic, options.timesteps, options.rollout)
    if options.out:
        save_policy(actor, options.out)
    envs.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
