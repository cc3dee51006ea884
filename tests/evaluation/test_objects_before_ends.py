"""Objects before ends: an end without its cause is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.evaluation.objects_before_ends import (
    FRAMES_BEFORE_END,
    EndWatch,
    metrics_before_ends,
    real_pixels,
)


class CountedDetector:
    """Finds as many pixels as the first number of a frame says."""

    kinds = ("ball",)

    def find(self, frames: np.ndarray) -> np.ndarray:
        counts = frames[:, 0, 0, 0]
        found: np.ndarray = np.arange(64) < counts[:, None]
        return found.reshape(len(frames), 1, 8, 8)


def frames(*counts: int) -> np.ndarray:
    made = np.zeros((len(counts), 8, 8, 3), np.uint8)
    made[:, 0, 0, 0] = counts
    return made


def test_the_largest_of_the_newest_frames_counts() -> None:
    watch = EndWatch(CountedDetector(), 3)  # type: ignore[arg-type]
    watch.see(np.array([0, 1, 2]), frames(60, 3, 1))
    for _ in range(FRAMES_BEFORE_END - 1):
        watch.see(np.array([0, 1, 2]), frames(5, 2, 1))
    watch.end(np.array([0]))
    watch.see(np.array([1, 2]), frames(2, 1))
    watch.end(np.array([1]))
    assert watch.pixels[:2, 0].tolist() == [60, 2], "the frame of 3 pixels is eleven frames old"
    assert np.isnan(watch.pixels[2, 0])


def test_ends_without_a_cause_have_a_ratio_of_nothing() -> None:
    last = [frames(0, 40, 0), None, frames(20, 0, 0)]
    real = real_pixels(CountedDetector(), last)  # type: ignore[arg-type]
    assert real[[0, 2], 0].tolist() == [40, 20]
    assert np.isnan(real[1, 0])
    for seen, expected in ((0.0, 0.0), (15.0, 0.5), (30.0, 1.0)):
        imagined = np.array([[seen], [seen], [np.nan]])
        scores = {"imagined_before_end": imagined, "real_before_end": real}
        made = metrics_before_ends(scores, ("ball",))["ball_pixels_before_end_ratio"]
        assert made.value == pytest.approx(expected)
    never = {"imagined_before_end": np.full((3, 1), np.nan), "real_before_end": real}
    assert metrics_before_ends(never, ("ball",)) == {}
