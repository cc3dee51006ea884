"""The Gymnasium ids, registered when worldsim is imported.

Only strings are registered: neither torch nor a checkpoint is touched until an environment is made.
"""

from __future__ import annotations

from dataclasses import dataclass

_SINGLE = "worldsim.envs.imagined:ImaginedEnv"
_VECTOR = "worldsim.envs.vector:ImaginedVectorEnv"
_REMOTE = "worldsim.envs.remote:RemoteEnv"
_REMOTE_VECTOR = "worldsim.envs.remote:RemoteVectorEnv"


@dataclass(frozen=True)
class EnvId:
    """One registered id: its default world (None: the caller names one or a server), its limit in frames."""

    id: str
    world: str | None
    max_episode_steps: int | None
    single: str = _SINGLE
    vector: str = _VECTOR


IDS = (
    EnvId("DoomMaze-v0", world="doom-maze", max_episode_steps=1050),
    EnvId("TakeCover-v0", world="take-cover", max_episode_steps=1050),
    EnvId("WorldsimWorld-v0", world=None, max_episode_steps=None),
    EnvId("WorldsimRemote-v0", world=None, max_episode_steps=None, single=_REMOTE, vector=_REMOTE_VECTOR),
)


def register() -> None:
    """Register every id of ``IDS`` with Gymnasium; does nothing for those that are there already.

    Where Gymnasium is not installed (a robot's computer that only speaks the wire protocol) nothing happens.
    """
    try:
        from gymnasium.envs import registration
    except ModuleNotFoundError:
        return
    for entry in IDS:
        if entry.id not in registration.registry:
            registration.register(
                id=entry.id,
                entry_point=entry.single,
                vector_entry_point=entry.vector,
                max_episode_steps=entry.max_episode_steps,
                kwargs={} if entry.world is None else {"world": entry.world},
            )
