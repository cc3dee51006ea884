"""Measures of a world's roll-outs against recorded frames: open loop, motion, Frechet distance, keys, speed.

The roll-outs are played as a person plays: one control at a time, through an engine.

Shapes: N trajectories, F imagined frames, H x W frame.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from worldsim.context import Context
from worldsim.data.clips import Clip, ClipStore
from worldsim.engine.world import World
from worldsim.evaluation.drift import frechet
from worldsim.evaluation.image_metrics import MAX_PSNR, changed_pixels, gradient, psnr, squared_error
from worldsim.evaluation.metric import Estimate, estimate, pooled
from worldsim.pixels import resize_area, to_frame, to_model

__all__ = ["GIVEN", "Reader", "Scores", "measure_endless", "measure_rollouts", "measure_speed", "play"]

GIVEN = 4
"""Frames that a roll-out begins with."""
_SMALL = (15, 20)
"""Size of the frames that features are made of."""
_COMPONENTS = 32
_BLOCKS = (3, 5)


@dataclass(frozen=True)
class Scores:
    """Numbers of one world, by name, and the frames of its roll-outs."""

    values: dict[str, float]
    frames: np.ndarray
    """uint8 [N, F, H, W, 3], under the true controls."""


class Reader:
    """Features of frames and a reader of keys, both fitted to recorded frames alone.

    Features are the first 32 principal components of small grey frames and of their change: a source without
    poses has no inverse dynamics model. Keys are read by ridge regression from the shift of image blocks.
    """

    def __init__(self, clips: ClipStore, count: int = 48, length: int = 33, seed: int = 0) -> None:
        clip = clips.sample(count, length, np.random.default_rng(seed))
        seen = _appearance(clip.frames)
        self._mean = seen.mean(0)
        self._axes = np.linalg.svd(seen - self._mean, full_matrices=False)[2][:_COMPONENTS]
        scale = ((seen - self._mean) @ self._axes.T).std(0)
        self._scale = np.maximum(scale, 0.05 * scale.max())
        shifts, self._keys = _shifts(clip.frames), len(clips.spec.control_space.keys)
        self._shift_mean, self._shift_std = shifts.mean(0), shifts.std(0) + 1e-6
        inputs = self._inputs(shifts)
        wanted = 2 * _held(clip.controls, self._keys) - 1
        gram = inputs.T @ inputs + 10 * np.eye(inputs.shape[1])
        self._weights = np.linalg.solve(gram, inputs.T @ wanted)

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Features [N (F - 1), 32] of clips uint8 [N, F, H, W, 3], each of about unit variance."""
        return ((_appearance(frames) - self._mean) @ self._axes.T) / self._scale

    def accuracy(self, frames: np.ndarray, controls: np.ndarray) -> float:
        """Balanced accuracy of the keys that are read from clips, against those that were held.

        The mean over keys, and over a key that is held and one that is not; 0.5 is chance.
        """
        read = self._inputs(_shifts(frames)) @ self._weights > 0
        held = _held(controls, self._keys) > 0.5
        shares = []
        for key in range(self._keys):
            sides = [read[held[:, key] == side, key] == side for side in (True, False)]
            shares += [side.mean() for side in sides if len(side)]
        return float(np.mean(shares)) if shares else float("nan")

    def _inputs(self, shifts: np.ndarray) -> np.ndarray:
        scaled = (shifts - self._shift_mean) / self._shift_std
        return np.concatenate([scaled, np.ones((len(scaled), 1))], 1)


def play(
    world: World, clip: Clip, denoising_steps: int, controls: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Roll-outs of the frames after the first ``GIVEN`` of ``clip``, uint8 [N, F, H, W, 3]."""
    controls = clip.controls if controls is None else controls
    count, length = clip.frames.shape[:2]
    engine = world.engine(count, denoising_steps=denoising_steps, rewind_frames=0)
    sessions, space = [], world.spec.control_space
    for row in range(count):
        given = Context(clip.frames[row, :GIVEN], clip.controls[row, :GIVEN])
        sessions.append(engine.open(seed + row, given.newest(engine.given_frames)))
    frames = []
    for t in range(GIVEN, length):
        held = {session: space.from_vector(controls[row, t]) for row, session in enumerate(sessions)}
        steps = engine.step(held)
        frames.append(np.stack([steps[session].frame for session in sessions]))
    return np.stack(frames, 1)


def measure_rollouts(world: World, clip: Clip, reader: Reader, denoising_steps: int, seed: int = 0) -> Scores:
    """Scores of roll-outs against the frames of ``clip``, over the first 16 frames and over all.

    Those with an interval of 95 %, by bootstrap over roll-outs, have ``NAME_low`` and ``NAME_high`` beside.
    """
    made = play(world, clip, denoising_steps, seed=seed)
    rolled = np.roll(clip.controls[:, GIVEN:], 1, 0)
    other = np.concatenate([clip.controls[:, :GIVEN], rolled], 1)
    shuffled = play(world, clip, denoising_steps, other, seed)
    true, before = clip.frames[:, GIVEN:], clip.frames[:, GIVEN - 1 : -1]
    shown = _through_tokenizer(world, true)
    where, length = changed_pixels(true, before), true.shape[1]
    values: dict[str, float] = {}
    for span in sorted({min(16, length), length}):
        own, others = (psnr(frames[:, :span], true[:, :span]) for frames in (made, shuffled))
        values |= _with_interval(f"psnr{span}", estimate(own))
        values |= _with_interval(f"psnr{span}_gap", estimate(own - others))
        values[f"psnr{span}_shuffled"] = float(others.mean())
        values[f"psnr{span}_changed"] = _decibels(
            squared_error(made[:, :span], true[:, :span], where[:, :span]).sum(), where[:, :span].sum()
        )
        values[f"psnr{span}_copy"] = float(psnr(before[:, :1].repeat(span, 1), true[:, :span]).mean())
    values["tokenizer_psnr"] = float(psnr(shown, true).mean())
    features = [_by_rollout(reader, frames) for frames in (made, true)]
    values |= _with_interval("frechet", pooled(partial(_distance, *features), len(made)))
    every = np.arange(len(made))
    values["frechet_tokenizer"] = _distance(_by_rollout(reader, shown), features[1], every)
    values["motion_ratio"] = _motion(made) / max(_motion(shown), 1e-9)
    values["sharpness_ratio"] = float(gradient(made).mean() / max(gradient(shown).mean(), 1e-9))
    values["key_accuracy"] = reader.accuracy(made, clip.controls[:, GIVEN:])
    values["key_accuracy_real"] = reader.accuracy(true, clip.controls[:, GIVEN:])
    return Scores(values, made)


def _with_interval(name: str, of: Estimate) -> dict[str, float]:
    """An estimate by its name, and its interval's ends."""
    return {name: of.value, f"{name}_low": of.low, f"{name}_high": of.high}


def _by_rollout(reader: Reader, frames: np.ndarray) -> np.ndarray:
    """Features [N, F - 1, 32] of clips."""
    features: np.ndarray = reader.features(frames).reshape(len(frames), frames.shape[1] - 1, -1)
    return features


def _distance(one: np.ndarray, other: np.ndarray, rows: np.ndarray) -> float:
    """Frechet distance of the features of some roll-outs."""
    return frechet(*(features[rows].reshape(-1, features.shape[-1]) for features in (one, other)))


def measure_speed(world: World, denoising_steps: int, frames: int = 48) -> dict[str, float]:
    """Frames per second of one session under a held control, and the cost of a unit.

    ``cpu_ms_per_frame`` is the processor time of all threads: other programs on the machine hardly change it.
    """
    engine = world.engine(1, denoising_steps=denoising_steps, rewind_frames=0)
    session = engine.open(0, 0)
    for _ in range(2 * world.unit_frames):
        session.step()
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(frames):
        session.step()
    took, cost = time.perf_counter() - began, world.unit_cost
    return {
        "frames_per_s": frames / took,
        "cpu_ms_per_frame": 1000 * (time.process_time() - worked) / frames,
        "latency_frames": cost.latency,
        "autoregressive_steps": cost.steps,
        "tokens_per_step": float(np.mean(cost.predicted)),
    }


def measure_endless(
    world: World, reader: Reader, frames: int, context: int, denoising_steps: int = 1, seed: int = 0
) -> dict[str, float]:
    """A roll-out of ``frames`` frames with ``context`` frames of past: cost and look, first against last.

    Controls change at random every eighth frame, to one of the world's discrete actions. ``cost_ratio`` is
    the time of the last share of frames over that of the first; appearance is of the first and last 15 %.
    """
    unit = world.unit_frames
    engine = world.engine(1, max(2, context // unit), denoising_steps, rewind_frames=0)
    actions, rng = world.spec.control_space.discrete_actions, np.random.default_rng(seed)
    session, share = engine.open(seed, 0), max(frames * 15 // 100, 2)
    seconds, first, last = np.zeros(frames), [], []
    held: tuple[str, ...] = ()
    for t in range(frames):
        if t % 8 == 0:
            held = actions[int(rng.integers(len(actions)))]
        began = time.perf_counter()
        frame = session.step(held).frame
        seconds[t] = time.perf_counter() - began
        if t < share:
            first.append(frame)
        elif t >= frames - share:
            last.append(frame)
    part = min(1000, max(frames // 4, 1))
    ends = [np.stack(part_frames)[None] for part_frames in (first, last)]
    features = [reader.features(end) for end in ends]
    return {
        "frames": frames,
        "context": context,
        "cost_ratio": float(np.median(seconds[-part:]) / np.median(seconds[part : 2 * part])),
        "frames_per_s": float(frames / seconds.sum()),
        "sharpness_first": float(gradient(ends[0]).mean()),
        "sharpness_last": float(gradient(ends[1]).mean()),
        "motion_first": _motion(ends[0]),
        "motion_last": _motion(ends[1]),
        "frechet_first_last": frechet(*features),
    }


def _through_tokenizer(world: World, frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [N, F, H, W, 3], encoded and decoded again."""
    tokenizer, shape = world.networks.tokenizer, frames.shape
    flat, made = frames.reshape(-1, *shape[2:]), []
    with torch.inference_mode():
        for some in np.array_split(flat, -(-len(flat) // 64)):
            raw = tokenizer.posterior(to_model(some, world.device))[0]  # type: ignore[attr-defined]
            shown = tokenizer.reconstruct(raw).clamp(-1, 1)  # type: ignore[attr-defined]
            made.append(to_frame(shown.float()).cpu().numpy())
    return np.concatenate(made).reshape(shape)


def _grey(frames: np.ndarray) -> np.ndarray:
    """Small brightness of clips, float32 [N, F, 15, 20] in 0..1."""
    return resize_area(frames, _SMALL).mean(-1, dtype=np.float32) / 255


def _appearance(frames: np.ndarray) -> np.ndarray:
    """Small frames and their change since the frame before [N (F - 1), 600]."""
    grey = _grey(frames)
    pairs = np.stack([grey[:, 1:], 4 * np.abs(np.diff(grey, axis=1))], 2)
    return pairs.reshape(-1, 2 * _SMALL[0] * _SMALL[1]).astype(np.float64)


def _shifts(frames: np.ndarray) -> np.ndarray:
    """Least-squares shift of blocks between frames, in pixels of small frames [N (F - 1), 2 blocks]."""
    grey = _grey(frames).astype(np.float64)
    across, down = np.gradient(grey[:, :-1], axis=-1), np.gradient(grey[:, :-1], axis=-2)
    change = np.diff(grey, axis=1)
    parts = []
    for slope in (across, down):
        top, bottom = _blocks(slope * change), _blocks(slope * slope)
        parts.append(-top / (bottom + 1e-3))
    return np.concatenate(parts, -1).reshape(-1, parts[0].shape[-1] * 2)


def _blocks(x: np.ndarray) -> np.ndarray:
    """Sums over 3 x 5 blocks [..., 15]."""
    rows, columns = _BLOCKS
    high, wide = _SMALL[0] // rows, _SMALL[1] // columns
    return x.reshape(*x.shape[:-2], rows, high, columns, wide).sum((-3, -1)).reshape(*x.shape[:-2], -1)


def _held(controls: np.ndarray, keys: int) -> np.ndarray:
    """Keys that lead from each frame to the next [N (F - 1), keys]."""
    return controls[:, 1:, :keys].reshape(-1, keys).astype(np.float64)


def _motion(frames: np.ndarray) -> float:
    """Mean absolute change between frames, in grey levels."""
    return float(np.abs(np.diff(frames.astype(np.int16), axis=1)).mean())


def _decibels(error: float, pixels: float) -> float:
    return float(min(-10 * np.log10(max(error / pixels, 1e-10)), MAX_PSNR)) if pixels else float("nan")
