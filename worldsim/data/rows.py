"""Episodes as rows of a table: the columns of the LeRobot v3 layout, and ours beside them.

Columns besides LeRobot's own: reward, terminated, truncated, keys, yaw, seed, and camera.pose and
camera.intrinsics where the source has a camera. A row's prompt is its LeRobot task: ``task_index`` is the
prompt's number, and 0, the task without a prompt, is named after the source. A continuous action follows keys
and yaw in ``action``: its numbers, or 0 where ``action_known`` is false.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from worldsim.data.episodes import EpisodeArrays
from worldsim.data.parquet import to_table
from worldsim.data.spec import SourceSpec
from worldsim.data.stats import Stats, of_frames, of_values
from worldsim.errors import DataError

__all__ = ["IMAGE", "embedded_stats", "features", "from_rows", "poses_of", "tasks_of", "to_rows"]

IMAGE = "observation.image"
"""Name of the video feature."""
_STATS_KEY = "stats"


def to_rows(episode: EpisodeArrays, spec: SourceSpec, number: int, *, has_video: bool = True) -> Any:
    """An episode as a pyarrow table, but for the column ``index``: only the gathering knows it.

    The columns' statistics, and where there is a video the frames', go with it in the table's metadata.
    """
    steps = np.arange(len(episode), dtype=np.int64)
    n_keys, moved = len(spec.control_space.keys), spec.control_space.motion_size
    prompts = episode.controls[:, moved].astype(np.int64) if spec.control_space.prompts else steps * 0
    known, numbers = _action_columns(episode, spec)
    columns = {
        "action": np.concatenate([episode.controls[:, :moved], numbers], 1),
        **known,
        "keys": _flat_if_single(episode.controls[:, :n_keys] > 0.5),
        "yaw": episode.controls[:, n_keys],
        "reward": episode.rewards,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "seed": np.full_like(steps, episode.seed),
        **_camera_columns(episode, spec),
        "timestamp": (steps / spec.fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full_like(steps, number),
        "task_index": prompts,
    }
    stats = {IMAGE: of_frames(episode.frames)} if has_video else {}
    stats |= {name: of_values(values) for name, values in columns.items()}
    return to_table(columns, {_STATS_KEY: json.dumps(stats)})


def from_rows(table: Any, spec: SourceSpec) -> EpisodeArrays:
    """The inverse of :func:`to_rows`, but for the frames, which are empty: ``uint8 [T, 0, 0, 3]``.

    Raises:
        DataError: a task that is none of the source's. ControlError: an action out of its bounds.
    """
    space = spec.control_space
    controls, action = np.split(_matrix(table, "action"), [space.motion_size], 1)
    if space.prompts:
        tasks = table["task_index"].to_numpy()
        if tasks.size and not 0 <= tasks.min() <= tasks.max() < len(tasks_of(spec)):
            raise DataError(f"a task's number must be in 0..{len(tasks_of(spec)) - 1}", tasks.tolist()[:20])
        controls = np.concatenate([controls, tasks[:, None].astype(np.float32)], 1)
    if space.action is not None:
        known = _matrix(table, "action_known")[:, None].astype(np.float32)
        action = np.concatenate([known, action], 1)
        space.action.check_rows(action)
    controls = np.concatenate([controls, action], 1)
    return EpisodeArrays(
        frames=np.empty((table.num_rows, 0, 0, 3), dtype=np.uint8),
        controls=controls,
        poses=poses_of(table) if "camera.pose" in table.column_names else None,
        rewards=table["reward"].to_numpy(),
        terminated=table["terminated"].to_numpy(),
        truncated=table["truncated"].to_numpy(),
        seed=table["seed"][0].as_py(),
    )


def poses_of(table: Any) -> np.ndarray:
    """``float64 [T, 4, 4]``: the poses in a table that has them."""
    return _matrix(table, "camera.pose").reshape(-1, 4, 4)


def tasks_of(spec: SourceSpec) -> list[str]:
    """Texts of the LeRobot tasks, by number: the source's name for no prompt, then the prompts."""
    return [spec.name, *spec.control_space.prompts]


def features(spec: SourceSpec, *, has_video: bool = True) -> dict[str, dict[str, Any]]:
    """The features of a dataset of ``spec``, as info.json states them."""
    keys, box = spec.control_space.keys, spec.control_space.action
    numbers = [f"action_{i}" for i in range(box.size)] if box else []
    h, w = spec.size
    vectors = {
        "action": ("float32", [*keys, "yaw", *numbers]),
        "keys": ("bool", list(keys)),
    }
    if spec.has_pose:
        vectors["camera.pose"] = ("float64", [f"m{row}{column}" for row in range(4) for column in range(4)])
    if spec.intrinsics is not None:
        vectors["camera.intrinsics"] = ("float64", ["fx", "fy", "cx", "cy"])
    scalars = {
        **dict.fromkeys(("yaw", "reward", "timestamp"), "float32"),
        **dict.fromkeys(("terminated", "truncated", *(("action_known",) if box else ())), "bool"),
        **dict.fromkeys(("seed", "frame_index", "episode_index", "index", "task_index"), "int64"),
    }
    image = {
        "dtype": "video",
        "shape": [h, w, 3],
        "names": ["height", "width", "channels"],
        "info": {"video.fps": spec.fps, "video.height": h, "video.width": w, "has_audio": False},
    }
    return {
        **({IMAGE: image} if has_video else {}),
        **{
            k: {"dtype": dtype, "shape": [len(names)], "names": names}
            for k, (dtype, names) in vectors.items()
        },
        **{k: {"dtype": dtype, "shape": [1], "names": None} for k, dtype in scalars.items()},
    }


def embedded_stats(table: Any) -> dict[str, Stats]:
    """The statistics of an episode's columns and frames, which :func:`to_rows` left with its table."""
    stats: dict[str, Stats] = json.loads(table.schema.metadata[_STATS_KEY.encode()])
    return stats


def _action_columns(episode: EpisodeArrays, spec: SourceSpec) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The column of known actions, where the source takes actions, and their numbers [T, n]."""
    columns = spec.control_space.channels.get("action")
    if columns is None:
        return {}, episode.controls[:, :0]
    known, numbers = np.split(episode.controls[:, columns], [1], 1)
    return {"action_known": known[:, 0] > 0.5}, numbers


def _camera_columns(episode: EpisodeArrays, spec: SourceSpec) -> dict[str, np.ndarray]:
    columns = {}
    if episode.poses is not None:
        columns["camera.pose"] = episode.poses.reshape(-1, 16)
    if spec.intrinsics is not None:
        K = spec.intrinsics
        columns["camera.intrinsics"] = np.tile(np.array([K.fx, K.fy, K.cx, K.cy]), (len(episode), 1))
    return columns


def _flat_if_single(array: np.ndarray) -> np.ndarray:
    """LeRobot reads a feature of shape [1] from a plain column."""
    return array[:, 0] if array.shape[1] == 1 else array


def _matrix(table: Any, name: str) -> np.ndarray:
    """A column as ``[T]`` or ``[T, n]``."""
    column = table[name].combine_chunks()
    if not hasattr(column.type, "list_size"):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(len(column), column.type.list_size))
