"""The vector environment as TorchRL wants it."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, DependencyError, install

try:
    import torch
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Binary, Bounded, Categorical, Composite, TensorSpec, Unbounded
    from torchrl.envs import EnvBase
except ModuleNotFoundError as error:
    raise DependencyError("worldsim.envs.torchrl needs TorchRL", None, install("torchrl")) from error

__all__ = ["TorchRLEnv"]


class TorchRLEnv(EnvBase):
    """An ``EnvBase`` of batch size [N] over one batched engine, in tensors on the world's device.

    Observations are ``pixels`` uint8 [N, H, W, 3] (``torchrl.envs.ToTensorImage`` turns them round) and, in a
    world with a camera, ``pose`` float64 [N, 4, 4], camera-to-world. TorchRL itself resets what is over: an
    episode's last frame is where it looks for its value. ``set_seed`` holds from the next reset on;
    ``reset(options={"start": ...})`` as in ``ImaginedVectorEnv.reset``.

        envs = TorchRLEnv(gymnasium.make_vec("worldsim:DoomMaze-v0", num_envs=8))

    Args:
        env: a vector environment, as ``gymnasium.make_vec`` gives it, with flat actions. DISABLED autoreset
            is chosen.

    Raises:
        ConfigError: another autoreset mode, or "dict" actions.
    """

    def __init__(self, env: ImaginedVectorEnv) -> None:
        if not env.choose_autoreset(AutoresetMode.DISABLED):
            rule, remedy = "TorchRL resets by itself", "leave autoreset_mode out"
            raise ConfigError(rule, env.autoreset_mode.value, remedy)
        super().__init__(device=env.device, batch_size=torch.Size([env.num_envs]))
        self.env = env
        self._next_seed: int | None = None
        self.action_spec = _action_spec(env.single_action_space, env.num_envs).to(env.device)
        n, shape = env.num_envs, env.single_observation_space.shape
        seen = {"pixels": Bounded(0, 255, (n, *(shape or ())), dtype=torch.uint8)}
        if env.core.world.spec.has_pose:
            seen["pose"] = Unbounded((n, 4, 4), dtype=torch.float64)
        self.observation_spec = Composite(seen, shape=(n,)).to(env.device)
        self.reward_spec = Unbounded((n, 1), dtype=torch.float32, device=env.device)
        flag = Categorical(2, dtype=torch.bool, shape=(n, 1), device=env.device)
        flags = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.done_spec = Composite(flags, shape=(n,)).to(env.device)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End all episodes."""
        self.env.close()
        super().close(raise_if_closed=raise_if_closed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        options = dict(kwargs.get("options") or {})
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None:
            options["reset_mask"] = mask.reshape(self.env.num_envs)
        seed, self._next_seed = self._next_seed, None
        frames, info = self.env.reset(seed=seed, options=options)
        return self._answer(frames, info)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        frames, rewards, terminated, truncated, info = self.env.step(tensordict["action"])
        flags = {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
        columns = {name: flag[:, None] for name, flag in flags.items()}
        return self._answer(frames, info).update({"reward": rewards[:, None], **columns})

    def _set_seed(self, seed: int | None) -> None:
        self._next_seed = seed

    def _answer(self, frames: Tensor, info: dict[str, Any]) -> TensorDict:
        seen = {"pixels": frames}
        if "pose" in self.observation_spec.keys():  # noqa: SIM118  # a spec is no mapping
            seen["pose"] = info["pose"]
        return TensorDict(seen, batch_size=self.batch_size, device=self.device)


def _action_spec(space: spaces.Space[Any], n: int) -> TensorSpec:
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), shape=(n,), dtype=torch.int64)
    if isinstance(space, spaces.MultiBinary):
        return Binary(shape=(n, *space.shape), dtype=torch.int8)
    if isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(bound).expand(n, *space.shape) for bound in (space.low, space.high))
        return Bounded(low, high, (n, *space.shape), dtype=torch.float32)
    rule, remedy = "TorchRL needs flat actions", "choose actions='discrete', 'multi_binary' or 'box'"
    raise ConfigError(rule, type(space).__name__, remedy)
