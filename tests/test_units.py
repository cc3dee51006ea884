import numpy as np
import pytest

from worldsim.errors import ConfigError
from worldsim.units import FrameUnit, Unit


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
