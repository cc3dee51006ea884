"""Frames are shown, and what is told of them, by kernels as by torch."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.compare import both, built, same, threads
from tests.tiny import random_like
from worldsim.kernels import image_ops
from worldsim.pixels import to_frame
from worldsim.sampling.uncertainty import frame_uncertainty
from worldsim.tokenizer.protocol import Prior

pytestmark = [built, pytest.mark.usefixtures("each_variant", "fenced")]

SHAPES = [(1, 12, 16), (5, 9, 7), (3, 1, 1), (2, 30, 33)]


def prior_of(count: int, height: int, width: int) -> Prior:
    warped, nothing = random_like((count, 3, height, width), 1).clamp(-1, 1), torch.zeros(count, 1)
    valid = random_like((count, 1, height, width), 2).sigmoid()
    return Prior(warped, warped, valid, nothing, warped, nothing, nothing, nothing)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_a_frame_is_shown_to_the_last_level_as_torch_shows_it(lead: tuple[int, ...]) -> None:
    # Every level, what lies halfway between two of them, and what lies outside.
    levels = torch.arange(3 * 20 * 40) % 522 / 2 - 2
    pixels = (levels / 127.5 - 1).view(3, 20, 40).expand(*lead, -1, -1, -1)
    quick, slow = both(lambda: to_frame(pixels))
    assert quick.dtype == torch.uint8
    same(quick, slow)
    noise = 0.7 * random_like((*lead, 3, 31, 45), 0)
    same(*both(lambda: to_frame(noise)))


def test_what_is_no_number_is_shown_all_the_same() -> None:
    pixels = torch.tensor([torch.nan, torch.inf, -torch.inf]).view(3, 1, 1)
    assert to_frame(pixels).flatten().tolist() == [0, 255, 0]


@pytest.mark.parametrize(("count", "height", "width"), SHAPES[:2] + SHAPES[3:])
def test_what_strays_is_told_as_torch_tells_it(count: int, height: int, width: int) -> None:
    frame, prior = random_like((count, 3, height, width), 0).clamp(-1, 1), prior_of(count, height, width)
    quick, slow = both(lambda: frame_uncertainty(frame, prior, torch.linspace(0, 2, count), 0.05))
    torch.testing.assert_close(quick, slow, atol=1e-6, rtol=1e-5)
    assert 0 < slow.min() <= slow.max() < 1


def test_a_frame_is_told_of_alike_among_others_and_on_two_threads() -> None:
    frame, prior = random_like((9, 3, 30, 33), 0).clamp(-1, 1), prior_of(9, 30, 33)
    told = image_ops.warp_statistics(frame, prior.warped_rgb, prior.warp_confidence)
    with threads(2):
        same(image_ops.warp_statistics(frame, prior.warped_rgb, prior.warp_confidence), told)
        same(to_frame(frame)[3], to_frame(frame[3]))
    for i in range(9):
        one = slice(i, i + 1)
        same(
            image_ops.warp_statistics(frame[one], prior.warped_rgb[one], prior.warp_confidence[one])[0],
            told[i],
        )


def test_other_number_types_go_the_other_way() -> None:
    pixels = random_like((2, 3, 8, 8), 0).clamp(-1, 1).bfloat16()
    same(*both(lambda: to_frame(pixels)))
