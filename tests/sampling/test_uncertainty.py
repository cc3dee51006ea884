"""The uncertainty signal: what it rises with, and what it stays alike under."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.tiny import random_like
from worldsim.sampling import uncertainty
from worldsim.tokenizer.protocol import Prior


def frame_uncertainty(frame: torch.Tensor, prior: Prior, pose_uncertainty: torch.Tensor) -> torch.Tensor:
    return uncertainty.frame_uncertainty(frame, prior, pose_uncertainty, typical_contrast=0.052)


def prior_of(warped: Tensor) -> Prior:
    blank = torch.zeros(len(warped), 1)
    valid = torch.ones(len(warped), 1, *warped.shape[2:])
    return Prior(warped, warped, valid, blank, warped, blank, blank, blank)


def frames(rows: int, contrast: float = 0.1) -> Tensor:
    return (contrast * random_like((rows, 3, 12, 16), 0)).clamp(-1, 1)


def test_nothing_is_lost_where_the_past_was_right_and_nothing_is_in_doubt() -> None:
    frame = frames(3)
    torch.testing.assert_close(frame_uncertainty(frame, prior_of(frame), torch.zeros(3)), torch.zeros(3))


def test_it_rises_with_doubt_with_contrast_and_with_surprise() -> None:
    frame, pose_uncertainty = frames(4), torch.tensor([0.0, 0.1, 1.0, 100.0])
    by_doubt = frame_uncertainty(
        frame[:1].expand(4, -1, -1, -1), prior_of(frame[:1].expand(4, -1, -1, -1)), pose_uncertainty
    )
    assert (by_doubt.diff() > 0).all()
    assert by_doubt[-1] < 1
    one = torch.ones(4)
    plain, rich = (frame_uncertainty(it, prior_of(it), one) for it in (frames(4, 0.02), frames(4, 0.2)))
    assert (plain < rich).all()
    assert (
        frame_uncertainty(frame, prior_of(frame.flip(3)), one)
        > frame_uncertainty(frame, prior_of(frame), one)
    ).all()


def test_a_row_is_told_alike_in_every_batch() -> None:
    frame, warped, pose_uncertainty = frames(7), frames(7).flip(2), torch.linspace(0, 3, 7)
    whole = frame_uncertainty(frame, prior_of(warped), pose_uncertainty)
    for i in range(7):
        part = slice(i, i + 1)
        assert torch.equal(
            frame_uncertainty(frame[part], prior_of(warped[part]), pose_uncertainty[part]), whole[part]
        )


def test_threads_that_share_a_picture_round_it_alike() -> None:
    for seed in range(20):
        frame, warped = (random_like((1, 3, 120, 160), 2 * seed + i).clamp(-1, 1) for i in range(2))
        alone, shared = (told_by(threads, frame, warped) for threads in (1, 2))
        assert torch.equal(alone, shared)


def told_by(threads: int, frame: Tensor, warped: Tensor) -> Tensor:
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return frame_uncertainty(frame, prior_of(warped), torch.zeros(1))
    finally:
        torch.set_num_threads(usual)
