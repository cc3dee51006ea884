import numpy as np
import pytest

from worldsim.errors import ConfigError
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import (
    CubeUnit,
    CubeUnitConfig,
    FrameUnit,
    FrameUnitConfig,
    KeyDetailUnit,
    KeyDetailUnitConfig,
    NextScaleUnit,
    NextScaleUnitConfig,
    ScalesUnit,
    ScalesUnitConfig,
    Unit,
    cost_of,
    read_unit,
    unit_text,
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
    for config in (FrameUnitConfig(), CubeUnitConfig(), KeyDetailUnitConfig(), ScalesUnitConfig()):
        with pytest.raises(ConfigError, match="choose the unit next-scale"):
            config.build(latent((1, 1), (2, 2)))


def test_the_grid_is_the_only_scale_by_default() -> None:
    spec = LatentSpec(kind="continuous", tokens=6, channels=1, grid=(2, 3), bounded=True)
    assert spec.scales == ((2, 3),)
    with pytest.raises(ConfigError, match="scales must hold 7 tokens"):
        LatentSpec(kind="bits", tokens=7, channels=1, grid=(2, 3), bounded=True, scales=((1, 1), (2, 2)))


UNITS: dict[str, Unit] = {
    "frame": FrameUnit(tokens=48, grid=(6, 8)),
    "key-detail": KeyDetailUnit(frames=4, groups=2, grid=(6, 8)),
    "scales": ScalesUnit(grid=(6, 8), levels=3),
    "cube 2x2x2": CubeUnit(frames=4, grid=(6, 8), splits=(2, 2, 2)),
    "cube 4x3x4": CubeUnit(frames=4, grid=(6, 8), splits=(4, 3, 4)),
    "cube 1x2x2": CubeUnit(frames=4, grid=(6, 8), splits=(1, 2, 2)),
    "one frame 1x3x4": CubeUnit(frames=1, grid=(6, 8), splits=(1, 3, 4)),
}
COSTS = {
    "frame": (1, 1, 48),
    "key-detail": (2, 4, 96),
    "scales": (3, 1, 4),
    "cube 2x2x2": (8, 4, 24),
    "cube 4x3x4": (48, 4, 4),
    "cube 1x2x2": (4, 4, 48),
    "one frame 1x3x4": (12, 1, 4),
}
"""Steps, latency and tokens of the first step."""


@pytest.mark.parametrize("name", UNITS)
def test_the_parts_of_a_unit_are_all_its_tokens_and_see_those_before_them(name: str) -> None:
    unit = UNITS[name]
    order, mask = unit.order(), unit.mask()
    assert sorted(token for part in order for token in part) == list(range(unit.tokens))
    assert unit.positions().shape == (unit.tokens, 3)
    seen: set[int] = set()
    for part in order:
        seen |= set(part)
        for token in part:
            assert set(np.flatnonzero(mask[token])) == seen


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_tells_its_cost(name: str) -> None:
    cost = cost_of(UNITS[name])
    assert (cost.steps, cost.latency, cost.predicted[0]) == COSTS[name]
    assert cost.seen[-1] == UNITS[name].tokens
    assert sum(cost.predicted) == UNITS[name].tokens
    assert cost.steps_per_frame == COSTS[name][0] / COSTS[name][1]


def test_key_frames_are_the_last_of_every_group() -> None:
    unit = KeyDetailUnit(frames=6, groups=3, grid=(1, 2))
    frames = [sorted({int(unit.positions()[token, 0]) for token in part}) for part in unit.order()]
    assert frames == [[2, 5], [0, 3], [1, 4]]


def test_cubes_follow_in_time_then_row_by_row() -> None:
    unit = CubeUnit(frames=4, grid=(2, 4), splits=(2, 1, 2))
    corners = [unit.positions()[part[0]].tolist() for part in unit.order()]
    assert corners == [[0, 0, 0], [0, 0, 2], [2, 0, 0], [2, 0, 2]]


def test_scales_are_averages_and_the_last_is_the_latent() -> None:
    unit = ScalesUnit(grid=(3, 4), levels=3)
    assert unit.scales == ((1, 1), (2, 2), (3, 4))
    pyramid = unit.pyramid()
    assert pyramid.shape == (17, 12)
    np.testing.assert_allclose(pyramid.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(pyramid[0], 1 / 12)
    # Of three rows a half of two: the middle one counts half as much.
    np.testing.assert_allclose(
        pyramid[1].reshape(3, 4), [[1 / 3, 1 / 3, 0, 0], [1 / 6, 1 / 6, 0, 0], [0] * 4]
    )
    np.testing.assert_array_equal(pyramid[unit.latent_tokens()], np.eye(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cube:4/2x4x2", "time into 1, 2, 4; rows into 1, 2, 3, 6; columns into 1, 2, 4, 8"),
        ("cube:3/2x1x1", "time into 1, 3"),
        ("key-detail:4/3", "choose 1, 2, 4"),
        ("scales:9", "choose 1 to 4"),
    ],
)
def test_a_unit_that_does_not_fit_is_refused_with_what_would(text: str, message: str) -> None:
    grid = LatentSpec(kind="continuous", tokens=48, channels=1, grid=(6, 8), bounded=True)
    with pytest.raises(ConfigError, match=message):
        read_unit(text).build(grid)


@pytest.mark.parametrize("text", ["frame", "scales:2", "key-detail:6/3", "cube:4/2x2x2", "next-scale"])
def test_units_as_text(text: str) -> None:
    assert unit_text(read_unit(text)) == text


@pytest.mark.parametrize("text", ["cube:4", "cube:4/2x2", "key-detail:x/2", "frame:3", "scales:", "cubes"])
def test_text_of_no_unit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_unit(text)
