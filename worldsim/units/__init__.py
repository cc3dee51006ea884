"""The tokens that are predicted in one autoregressive step: a frame, cubes, key frames, scales ([Units])."""

from worldsim.units.cost import UnitCost, cost_of
from worldsim.units.cube import CubeUnit, CubeUnitConfig
from worldsim.units.frame import FrameUnit, FrameUnitConfig
from worldsim.units.key_detail import KeyDetailUnit, KeyDetailUnitConfig
from worldsim.units.next_scale import NextScaleUnit, NextScaleUnitConfig
from worldsim.units.protocol import ResizedUnit, TokenForm, Unit, UnitConfig
from worldsim.units.scales import ScalesUnit, ScalesUnitConfig
from worldsim.units.text import read_unit, unit_text

__all__ = [
    "CubeUnit",
    "CubeUnitConfig",
    "FrameUnit",
    "FrameUnitConfig",
    "KeyDetailUnit",
    "KeyDetailUnitConfig",
    "NextScaleUnit",
    "NextScaleUnitConfig",
    "ResizedUnit",
    "ScalesUnit",
    "ScalesUnitConfig",
    "TokenForm",
    "Unit",
    "UnitConfig",
    "UnitCost",
    "cost_of",
    "read_unit",
    "unit_text",
]
