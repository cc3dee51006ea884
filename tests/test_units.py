import numpy as np
import pytest

from worldsim.errors import ConfigError
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import (
    CubeUnitConfig,
    FrameUnit,
    FrameUnitConfig,
    NextScaleUnit,
    NextScaleUnitConfig,
    Unit,
)


def test_a_frame_predicts_all_its_tokens_in_one_pass() -> None:
    unit: Unit = FrameUnit(tokens=6, grid=(2, 3))
    assert unit.tokens == 6
    assert unit.frames == 1
    assert unit.order() == ((0, 1, 2, 3, 4, 5),)
    assert unit.mask().shape == (6, 6)
    assert unit.mask().all()


def test_positions_are_frame_row_and_column() -> None:
    expected = [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]
    np.testing.assert_array_equal(FrameUnit(tokens=6, grid=(2, 3)).positions(), expected)
    np.testing.assert_array_equal(FrameUnit(tokens=3).positions(), expected[:3])


def test_a_frame_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one token"):
        FrameUnit(tokens=0)
    with pytest.raises(ConfigError, match="grid must hold 6 tokens"):
        FrameUnit(tokens=6, grid=(2, 4))


def latent(*scales: tuple[int, int]) -> LatentSpec:
    tokens = sum(rows * columns for rows, columns in scales)
    return LatentSpec(kind="bits", tokens=tokens, channels=3, grid=scales[-1], bounded=True, scales=scales)


def test_scales_are_predicted_one_after_the_other() -> None:
    unit: Unit = NextScaleUnitConfig().build(latent((1, 1), (2, 2), (2, 4)))
    assert (unit.tokens, unit.frames) == (13, 1)
    assert unit.order() == ((0,), (1, 2, 3, 4), tuple(range(5, 13)))


def test_coarse_scales_are_stretched_over_the_fine_grid() -> None:
    positions = NextScaleUnit(scales=((1, 1), (2, 2), (2, 4))).positions()
    assert positions[:5].tolist() == [[0, 1, 2], [0, 0, 1], [0, 0, 3], [0, 1, 1], [0, 1, 3]]
    np.testing.assert_array_equal(positions[5:], FrameUnit(tokens=8, grid=(2, 4)).positions())


def test_a_token_sees_its_own_scale_and_coarser_ones() -> None:
    mask = NextScaleUnit(scales=((1, 1), (2, 2), (2, 4))).mask()
    assert mask[0].tolist() == [True] + [False] * 12
    assert mask[2].tolist() == [True] * 5 + [False] * 8
    assert mask[5:].all()


def test_scales_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="coarse to fine"):
        NextScaleUnit(scales=((2, 2), (1, 4)))
    with pytest.raises(ConfigError, match="at least one scale"):
        NextScaleUnit(scales=())
    with pytest.raises(ConfigError, match="several scales"):
        NextScaleUnitConfig().build(latent((2, 2)))
    for config in (FrameUnitConfig(), CubeUnitConfig()):
        with pytest.raises(ConfigError, match="choose the unit next-scale"):
            config.build(latent((1, 1), (2, 2)))


def test_the_grid_is_the_only_scale_by_default() -> None:
    spec = LatentSpec(kind="continuous", tokens=6, channels=1, grid=(2, 3), bounded=True)
    assert spec.scales == ((2, 3),)
    with pytest.raises(ConfigError, match="scales must hold 7 tokens"):
        LatentSpec(kind="bits", tokens=7, channels=1, grid=(2, 3), bounded=True, scales=((1, 1), (2, 2)))
