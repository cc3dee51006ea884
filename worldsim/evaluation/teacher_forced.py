"""Teacher-forced: the true past is given, one frame is imagined, and the true one is given again.

Shapes: N trajectories, S scored frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.engine.world import World
from worldsim.evaluation.detector import Detector
from worldsim.evaluation.image_metrics import changed_pixels, psnr, squared_error
from worldsim.evaluation.objects import count_pixels
from worldsim.evaluation.trajectories import Trajectories
from worldsim.pixels import to_frame, to_model
from worldsim.sampling.clock import imagine_frame, init_state, observe_frame
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.imagine import Imagined
from worldsim.sampling.world_state import WorldState

__all__ = ["TeacherForcing", "score_teacher_forced"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherForcing:
    """Frames to score, and numbers of denoising steps."""

    context: int
    """Given frames before the first scored one."""
    frames: int
    """Number of frames after the context."""
    every: int
    """Stride of the scored frames."""
    denoising_steps: tuple[int, ...]
    """K; the first of them is the one that poses are given with, too."""
    detector: Detector | None = None
    """Detector for objects in encoded and decoded frames; needs labels."""

    def __post_init__(self) -> None:
        assert self.context >= 1, "a next frame needs one before it"
        assert self.denoising_steps, "at least one K"


def score_teacher_forced(
    world: World, true: Trajectories, forcing: TeacherForcing, seed: int
) -> Mapping[str, np.ndarray]:
    """PSNR in dB, ``float64 [N, S]``, by name.

    * ``next_k1``, ...: the next frame imagined in K passes, keys and yaw only, so that its pose is predicted.
    * ``next_pose``: the same with the true pose given (worlds with poses).
    * ``tokenizer``: the true frame encoded and decoded, with the true past and pose.
    * ``scene``: the static scene at the true pose (worlds that have one).
    * ``warp``: the true last frame, moved along with the camera (likewise).
    * ``copy``: the true last frame.
    * ``unrelated``: the same moment of another trajectory.

    Also, of the pixels that changed since the true frame before, ``changed.pixels``: how many, and
    ``changed.<name>``: their summed squared error; and ``objects.tokenizer`` [N, S, K, 4], see
    ``count_pixels``, where there is a detector. In worlds of bits ``idempotence``: share of the bits that are
    the same once the frame is decoded and encoded again; and where chances are known ``surprise``: bits of
    information in the true frame, over its bits.
    """
    networks, n = world.networks, len(true)
    seeds = np.arange(n, dtype=np.uint64) + np.uint64(seed)
    poses = true.poses if true.poses is not None else np.tile(np.eye(4), (*true.frames.shape[:2], 1, 1))
    scores: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        memory = init_state(networks, _model(world, true.frames[:, 0]), poses[:, 0], seeds)
        for t in range(1, forcing.context + forcing.frames):
            given = ControlBatch(true.controls[:, t], poses[:, t], np.full(n, networks.has_poses))
            is_scored = t >= forcing.context and (t - forcing.context) % forcing.every == 0
            row = _next(world, memory, given, forcing) if is_scored else {}
            unit = observe_frame(networks, memory, _model(world, true.frames[:, t]), given)
            if is_scored:
                slot = t % networks.unit.frames  # units are counted from the first frame
                row["tokenizer"] = _frame(networks.decode_frame(unit.latent, unit.prior, slot))
                if unit.prior.scene_rgb.any():
                    row["scene"], row["warp"] = _frame(unit.prior.scene_rgb), _frame(unit.prior.warped_rgb)
                row["copy"], row["unrelated"] = true.frames[:, t - 1], np.roll(true.frames[:, t], 1, 0)
                found = _scored(row, true, t, forcing.detector) | _scored_bits(world, unit, row["tokenizer"])
                for name, values in found.items():
                    scores.setdefault(name, []).append(values)
    return {name: np.stack(rows, 1) for name, rows in scores.items()}


def _scored(
    row: dict[str, np.ndarray], true: Trajectories, t: int, detector: Detector | None
) -> dict[str, np.ndarray]:
    """Scores of the frames of one moment."""
    now, before = true.frames[:, t], true.frames[:, t - 1]
    scores = {name: psnr(frame, now) for name, frame in row.items()}
    where = changed_pixels(now, before)
    scores["changed.pixels"] = where.sum((-2, -1), dtype=np.float64)
    for name, frame in row.items():
        scores[f"changed.{name}"] = squared_error(frame, now, where)
    if detector is not None and true.labels is not None:
        truth = detector.truth({kind: masks[:, t] for kind, masks in true.labels.items()})
        scores["objects.tokenizer"] = count_pixels(detector.find(row["tokenizer"]), truth)
    return scores


def _scored_bits(world: World, unit: Imagined, decoded: np.ndarray) -> dict[str, np.ndarray]:
    """Scores [N] of the bits of observed frames, ``decoded`` uint8 [N, H, W, 3]; none of other latents."""
    tokenizer, scores = world.networks.tokenizer, dict[str, np.ndarray]()
    if tokenizer.latent_spec.kind == "bits" and tokenizer.latent_spec.frames == 1:
        again = tokenizer.encode(_model(world, decoded), unit.prior)
        scores["idempotence"] = ((again > 0) == (unit.latent > 0)).double().mean((1, 2)).cpu().numpy()
    if unit.surprise is not None:
        scores["surprise"] = unit.surprise.double().cpu().numpy() / unit.latent[0].numel()
    return scores


def _next(
    world: World, memory: WorldState, given: ControlBatch, forcing: TeacherForcing
) -> dict[str, np.ndarray]:
    """The next frame ``uint8 [N, H, W, 3]``, imagined in several ways from copies of ``memory``."""
    everyone = np.arange(len(given.vector))
    keys_only = ControlBatch(given.vector, given.poses, np.zeros(len(everyone), bool))
    rollout = lambda controls, steps: _frame(  # noqa: E731
        imagine_frame(world.networks, memory.pick(everyone), controls, steps).frame
    )
    row = {f"next_k{steps}": rollout(keys_only, steps) for steps in forcing.denoising_steps}
    if world.networks.has_poses:
        row["next_pose"] = rollout(given, forcing.denoising_steps[0])
    return row


def _model(world: World, frames: np.ndarray) -> Tensor:
    return to_model(frames, world.device)


def _frame(pixels: Tensor) -> np.ndarray:
    return to_frame(pixels.float()).cpu().numpy()
