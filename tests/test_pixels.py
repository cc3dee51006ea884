from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from worldsim.errors import DataError
from worldsim.pixels import resize_area, to_frame, to_model


def ramp() -> np.ndarray:
    """All grey levels in all channels: ``uint8 [2, 8, 16, 3]``."""
    return np.arange(2 * 8 * 16 * 3).reshape(2, 8, 16, 3).astype(np.uint8)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_every_level_survives_the_round_trip(as_tensor: bool) -> None:
    frames = ramp()
    pixels = to_model(torch.from_numpy(frames) if as_tensor else frames)
    assert pixels.shape == (2, 3, 8, 16)
    assert pixels.dtype == torch.float32
    assert pixels.min() == -1
    assert pixels.max() == 1
    back = to_frame(pixels)
    assert back.is_contiguous()
    np.testing.assert_array_equal(back.numpy(), frames)
    np.testing.assert_array_equal(to_frame(pixels.numpy()).numpy(), frames)


def test_axes_are_moved_not_reinterpreted() -> None:
    frame = np.zeros((4, 5, 3), np.uint8)
    frame[1, 2] = (255, 0, 51)
    pixels = to_model(frame)
    np.testing.assert_allclose(pixels[:, 1, 2], [1, -1, -0.6], atol=1e-6)


def test_what_lies_outside_the_range_is_clamped_and_levels_are_rounded() -> None:
    pixels = torch.tensor([-3.0, -1 + 1.4 / 127.5, 3.0]).reshape(3, 1, 1)
    assert to_frame(pixels).flatten().tolist() == [0, 1, 255]


def test_the_dtype_can_be_chosen_and_half_precision_comes_back_close() -> None:
    pixels = to_model(ramp(), dtype=torch.bfloat16)
    assert pixels.dtype == torch.bfloat16
    assert np.abs(to_frame(pixels).numpy().astype(int) - ramp()).max() <= 1


def test_read_only_and_strided_arrays_are_taken() -> None:
    frames = ramp()
    frames.flags.writeable = False
    torch.testing.assert_close(to_model(frames[:, ::-1]), to_model(frames).flip(-2))


@pytest.mark.parametrize(("shape", "dtype"), [((4, 5, 3), float), ((4, 3), np.uint8), ((3, 4, 5), np.uint8)])
def test_what_is_no_frame_is_refused(shape: tuple[int, ...], dtype: type) -> None:
    bad = np.zeros(shape, dtype)
    with pytest.raises(DataError, match="frames must be uint8"):
        to_model(bad)


@pytest.mark.parametrize("bad", [torch.zeros(4, 5, 3), torch.zeros(3, 4, 5, dtype=torch.uint8)])
def test_what_is_no_pixel_tensor_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(DataError, match="pixels must be floats"):
        to_frame(bad)


def test_resize_averages_boxes_and_rounds() -> None:
    frame = np.zeros((2, 4, 3), np.uint8)
    frame[:, :2] = [[[10], [20]], [[30], [41]]]
    frame[:, 2:] = 255
    small = resize_area(frame, (1, 2))
    assert small.dtype == np.uint8
    assert small[0, :, 0].tolist() == [25, 255]  # 101 / 4 = 25.25


def test_resize_agrees_with_the_slow_way_on_any_leading_axes() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 8, 3), dtype=np.uint8)
    small = resize_area(frames, (4, 2))
    slow = np.floor(frames.reshape(2, 3, 4, 3, 2, 4, 3).mean(axis=(3, 5)) + 0.5)
    np.testing.assert_array_equal(small, slow)
    assert resize_area(frames, (12, 8)) is frames  # nothing to do, nothing copied


@pytest.mark.parametrize("size", [(5, 8), (12, 3), (24, 16), (0, 8)])
def test_resize_refuses_what_does_not_divide(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="must divide"):
        resize_area(np.zeros((12, 8, 3), np.uint8), size)


def test_resizing_needs_no_torch() -> None:
    code = "import sys, worldsim.pixels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
