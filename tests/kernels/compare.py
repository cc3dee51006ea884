"""Two ways to the same numbers: by kernels, and by torch when they are set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import stir
from worldsim.kernels import library
from worldsim.scene.static_scene import StaticScene, StaticSceneConfig
from worldsim.utils.cpu_info import cpu_info

VARIANTS = ("avx512", "avx2", "portable")
MISSING = (
    "no kernels lie next to worldsim/kernels/library.py: there was no C compiler when this was installed"
)
SCENE = StaticSceneConfig(
    bounds=(-1.0, -1.5, 2.0, 1.0),
    ceiling=2.0,
    cell=0.25,
    floor_ceiling_cell=0.2,
    wall_cell=0.25,
    samples=24,
    near=2.0,
    far=6.0,
)

built = pytest.mark.skipif(library.variant() is None, reason=MISSING)

T = TypeVar("T")


def able() -> list[str]:
    """The compiled variants that this processor can run."""
    found, flags = library._library(), cpu_info().flags
    if found is None:
        return []
    fast = [name for name, needs in library._NEEDS.items() if needs <= flags]
    return [name for name in (*fast, "portable") if hasattr(found, f"worldsim_render_{name}")]


def has_renderer(scene: StaticScene | None) -> bool:
    """Whether kernels look."""
    return scene is not None and scene.renderer is not None


def both(run: Callable[[], T]) -> tuple[T, T]:
    """What kernels give and what torch gives."""
    assert library.kernels_enabled()
    quick = run()
    with library.kernels_disabled():
        return quick, run()


def same(one: object, other: object) -> None:
    """Equal to the last bit."""
    torch.testing.assert_close(one, other, atol=0, rtol=0, equal_nan=True)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many for torch and for kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_scene(config: StaticSceneConfig = SCENE) -> StaticScene:
    """A room of 3 x 2.5 m with pillars of all thicknesses, and colours about as wide as [-1, 1]."""
    torch.manual_seed(0)
    scene = StaticScene(config).eval().requires_grad_(False)
    stir(scene, scale=0.3)
    scene.occupancy.copy_(
        F.interpolate(2.0 * torch.randn(1, 1, 7, 6) - 1.0, scene.occupancy.shape[2:], mode="bilinear")
    )
    return scene
