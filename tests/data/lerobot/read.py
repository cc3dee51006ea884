"""Reads a dataset with LeRobot's own loader and prints what it saw as JSON; called with the folder."""

from __future__ import annotations

import json
import sys
import types

# Compiled operators of torchvision, which need the torch it was built with; reading frames needs none.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

dataset = LeRobotDataset("local/dots", root=sys.argv[1], video_backend="pyav")
items = [dataset[index] for index in (0, len(dataset) - 1)]
seen = {
    "length": len(dataset),
    "episodes": dataset.num_episodes,
    "fps": dataset.fps,
    "task": [item["task"] for item in items],
    "task_index": dataset.meta.get_task_index("dots"),
    "image": list(items[0]["observation.image"].shape),
    "first": (items[0]["observation.image"] * 255).round().int().flatten().tolist(),
    "reward": [float(item["reward"]) for item in items],
    "action": [item["action"].tolist() for item in items],
    "action_known": [bool(item.get("action_known", False)) for item in items],
    "pose": items[0]["camera.pose"].tolist(),
    "stats": sorted(dataset.meta.stats),
}
print(json.dumps(seen))
