"""skrl's PPO inside a world.

python -m worldsim.agents.learner.ppo_skrl --world doom-maze --timesteps 100000

skrl keeps a rollout's frames in float32 and values an episode that was cut off by the frame that the next one
begins with; the other learners do neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.agents.learner.command import make_envs, read_options, save_policy
from worldsim.agents.learner.network import FrameEncoder
from worldsim.envs.skrl import SkrlEnv  # first, for it says what to install where skrl is missing
from worldsim.utils.run_command import run_command

# isort: split
import torch
from skrl.agents.torch import ExperimentCfg
from skrl.agents.torch.ppo import PPO
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils.spaces.torch import unflatten_tensorized_space
from torch import Tensor, nn

__all__ = ["SkrlActorCritic", "main", "train"]


class SkrlActorCritic(CategoricalMixin, DeterministicMixin, Model):
    """Actor and critic of an environment's frames, which see through the same encoder."""

    def __init__(self, envs: SkrlEnv) -> None:
        Model.__init__(
            self, observation_space=envs.observation_space, action_space=envs.action_space, device=envs.device
        )
        CategoricalMixin.__init__(self, role="policy")
        DeterministicMixin.__init__(self, role="value")
        self.encoder = FrameEncoder()
        actor, critic = (nn.Linear(self.encoder.width, size) for size in (self.num_actions, 1))
        nn.init.zeros_(actor.weight)  # begin with every action equally likely
        self.heads = nn.ModuleDict({"policy": actor, "value": critic})
        self.to(self.device)

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """An action, or the value, of flat frames [B, H * W * 3]."""
        kind = CategoricalMixin if role == "policy" else DeterministicMixin
        answer: tuple[Tensor, dict[str, Any]] = kind.act(self, inputs, role=role)
        return answer

    def compute(self, inputs: Mapping[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Logits [B, actions] or values [B, 1]."""
        frames = unflatten_tensorized_space(self.observation_space, inputs["observations"])
        return self.heads[role](self.encoder(frames)), {}


def train(envs: SkrlEnv, policy: SkrlActorCritic, timesteps: int, rollout: int) -> None:
    """Learn for ``timesteps`` frames in all."""
    settings: dict[str, Any] = {
        "rollouts": rollout,
        "learning_epochs": 4,
        "mini_batches": 4,
        "learning_rate": 5e-4,
        "entropy_loss_scale": 0.01,
        "value_loss_scale": 0.5,
        "time_limit_bootstrap": True,
        "experiment": ExperimentCfg(write_interval=0, checkpoint_interval=0),  # its checkpoints are pickles
    }
    agent = PPO(
        models={"policy": policy, "value": policy},
        memory=RandomMemory(memory_size=rollout, num_envs=envs.num_envs, device=envs.device),
        observation_space=envs.observation_space,
        action_space=envs.action_space,
        device=envs.device,
        cfg=settings,
    )
    iterations = max(1, timesteps // (rollout * envs.num_envs))
    run = {"timesteps": iterations * rollout, "headless": True, "close_environment_at_exit": False}
    SequentialTrainer(env=envs, agents=agent, cfg=run).train()


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, learn, and save the policy where asked to."""
    options = read_options("Learn to act in a world with skrl's PPO.", argv)
    torch.manual_seed(options.seed)
    envs = SkrlEnv(make_envs(options))
    envs.reset(seed=options.seed)
    policy = SkrlActorCritic(envs)
    train(envs, policy, options.timesteps, options.rollout)
    if options.out:
        save_policy(policy, options.out)
    envs.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
