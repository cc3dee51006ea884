"""Loop closure: paths that end where they began, a full turn or out and back again.

The source takes the same path, so that the view on return is known twice: from the source, and from what the
rollout itself showed on its first pass.

Shapes: N loops, F frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from worldsim import camera
from worldsim.controls import Control
from worldsim.engine.world import World
from worldsim.evaluation.image_metrics import psnr
from worldsim.evaluation.metric import Metric, estimate, metric
from worldsim.evaluation.simulator import (
    BranchPoint,
    Simulator,
    SimulatorStep,
    SourceRun,
    act,
    as_run,
    replay_to,
)

__all__ = ["Loop", "can_loop", "loop_closure_metrics", "score_loops", "source_loops"]

_CLOSING = 4
"""Frames that are compared on return."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A path of the source on which the same view is seen twice."""

    branch_point: BranchPoint
    run: SourceRun
    first: np.ndarray
    """``int64 [4]``: frames of the run on the path out."""
    again: np.ndarray
    """``int64 [4]``: frames on which the same views are seen again."""
    far: int
    """Frame halfway."""


def can_loop(simulator: Simulator) -> bool:
    """True where a path back can be driven: poses, yaw control, and keys to walk with."""
    space = simulator.spec.control_space
    return simulator.spec.has_pose and space.yaw and {"forward", "backward"} <= set(space.keys)


def source_loops(simulator: Simulator, branch_points: list[BranchPoint], frames: int) -> list[Loop]:
    """Return loops of ``frames`` frames, alternately around and out and back, that the source completes."""
    paths = []
    for i, branch_point in enumerate(branch_points):
        is_turn, sign = i % 2 == 0, 1 - i % 4
        paths.append(
            _turn_around(simulator, branch_point, frames, sign)
            if is_turn
            else _out_and_back(simulator, branch_point, frames)
        )
    return [path for path in paths if path is not None]


def score_loops(world: World, loops: list[Loop], denoising_steps: int, seed: int) -> dict[str, np.ndarray]:
    """Return PSNR in dB, ``float64 [N, 4]``, of the frames on return.

    * ``given_pose``, ``keys_only``: the rollout with and without poses given, against the source.
    * ``given_pose_self``, ``keys_only_self``: against what the same rollout showed first.
    * ``real_self``: the source against what it showed first.
    * ``far``: what the source showed halfway against what it shows on momentum back.
    """
    scores = {
        "real_self": np.stack(
            [psnr(loop.run.frames[loop.again], loop.run.frames[loop.first]) for loop in loops]
        ),
        "far": np.stack([psnr(loop.run.frames[[loop.far]], loop.run.frames[loop.again]) for loop in loops]),
    }
    for name, has_poses in (("given_pose", True), ("keys_only", False)):
        shown = _rollout(world, loops, denoising_steps, seed, has_poses)
        truth = [loop.run.frames[loop.again] for loop in loops]
        scores[name] = np.stack([psnr(again, true) for (_, again), true in zip(shown, truth, strict=True)])
        scores[f"{name}_self"] = np.stack([psnr(again, first) for first, again in shown])
    return scores


def loop_closure_metrics(
    scores: Mapping[str, np.ndarray], seconds: int, upper: float | None
) -> dict[str, Metric]:
    """Return ``loop_closure_<seconds>s_psnr`` and ``_self_psnr``, also with suffix ``_keys_only``."""
    far, name = estimate(scores["far"]).value, f"loop_closure_{seconds}s"
    real = estimate(scores["real_self"]).value
    back = f"back after {seconds} s, around or out and back"

    def against(key: str, text: str, best: float | None) -> Metric:
        about = f"{back}, {text}; lower: what the source shows halfway; upper: "
        about += "the source's two passes" if best == real else "tokenizer_psnr"
        return metric(estimate(scores[key]), about, lower_reference=far, upper_reference=best)

    return {
        f"{name}_psnr": against("given_pose", "keys and poses given, against the source", upper),
        f"{name}_psnr_keys_only": against("keys_only", "keys alone, against the source", upper),
        f"{name}_self_psnr": against(
            "given_pose_self", "keys and poses given, against its own first pass", real
        ),
        f"{name}_self_psnr_keys_only": against(
            "keys_only_self", "keys alone, against its own first pass", real
        ),
    }


def _turn_around(simulator: Simulator, branch_point: BranchPoint, frames: int, sign: int) -> Loop | None:
    """Once around on the spot in ``frames`` frames, and a little further."""
    turn = Control(yaw=sign * 2 * math.pi / frames)
    run = act(simulator, branch_point, [turn] * (frames + _CLOSING))
    first = np.arange(1, _CLOSING + 1)
    return None if run is None else Loop(branch_point, run, first, first + frames, frames // 2)


def _out_and_back(simulator: Simulator, branch_point: BranchPoint, frames: int) -> Loop | None:
    """Half of the frames as the episode went on; then the same path back, still looking ahead."""
    half, space = frames // 2, simulator.spec.control_space
    seen: list[SimulatorStep] = [replay_to(simulator, branch_point)]
    rows = [np.zeros(space.size, np.float32)]
    for t in range(2 * half):
        if seen[-1].terminated or seen[-1].truncated:
            return None
        if t < half:
            control = space.from_vector(branch_point.future[t])
        else:
            control = _control_towards(seen, seen[2 * half - t - 1].pose, space.keys)
        seen.append(simulator.step(control))
        rows.append(space.vector(control))
    first = np.arange(_CLOSING, 0, -1)
    return (
        None if seen[-1].terminated else Loop(branch_point, as_run(seen, rows), first, 2 * half - first, half)
    )


def _control_towards(seen: list[SimulatorStep], goal: np.ndarray | None, keys: tuple[str, ...]) -> Control:
    """Keys and turn that bring the camera to where ``goal`` is, as far as one frame can."""
    now, before = seen[-1].pose, seen[-2].pose
    assert now is not None, "the way back is planned with poses"
    assert before is not None, "the way back is planned with poses"
    assert goal is not None, "the way back is planned with poses"
    ahead = camera.relative(now, goal)
    # Speed lasts: most of the last step comes again without a key.
    momentum = 0.8 * (now[:3, :3].T @ (now[:3, 3] - before[:3, 3]))
    right, _, forward = ahead[:3, 3] - momentum
    wanted = {"forward": forward, "backward": -forward, "strafe_right": right, "strafe_left": -right}
    held = [key for key, path in wanted.items() if path > 0.05 and key in keys]
    return Control(held, yaw=float(np.float32(np.arctan2(ahead[0, 2], ahead[2, 2]))))


def _rollout(
    world: World, loops: list[Loop], denoising_steps: int, seed: int, has_poses: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per loop, the frames ``uint8 [4, H, W, 3]`` that the rollout showed first and again."""
    engine = world.engine(slots=len(loops), denoising_steps=denoising_steps, rewind_frames=0)
    sessions = [
        engine.open(seed + i, loop.branch_point.context.newest(engine.given_frames))
        for i, loop in enumerate(loops)
    ]
    kept: list[dict[int, np.ndarray]] = [{} for _ in loops]
    for t in range(1, max(len(loop.run.frames) for loop in loops)):
        going = [i for i, loop in enumerate(loops) if t < len(loop.run.frames)]
        controls = {sessions[i]: _given(world, loops[i].run, t, has_poses) for i in going}
        answers = engine.step(controls)
        for i in going:
            if t in loops[i].first or t in loops[i].again:
                kept[i][t] = answers[sessions[i]].frame
    return [
        (np.stack([frames[t] for t in loop.first]), np.stack([frames[t] for t in loop.again]))
        for loop, frames in zip(loops, kept, strict=True)
    ]


def _given(world: World, run: SourceRun, t: int, has_poses: bool) -> Control:
    """Return the control that led into frame ``t`` of a run."""
    held = world.spec.control_space.from_vector(run.controls[t])
    pose = run.poses[t] if has_poses and run.poses is not None else None
    return replace(held, pose=pose)
