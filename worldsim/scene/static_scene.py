"""A static scene: a field in the weights, rendered along camera rays.

Shapes: B views, C channels, N columns of a view, R rows, S samples along a ray.

Plain latent re-synthesis spends a small budget on relearning every texture for every pose. A field keeps
them once: a top-down occupancy plane says where rays end, feature planes say what is seen there, and a small
network turns features into colour. It is a radiance field cut down to level cameras between one floor and
one ceiling: the ray march is two-dimensional, so it costs a column, not a pixel, and the surface is read once
a pixel. Kin: K-Planes (plane products), the free-space argument of occupancy mapping, explicit memory for
world models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import ConfigError
from worldsim.kernels.library import kernels_enabled, variant
from worldsim.kernels.render import CHANNELS, HIDDEN, SceneRenderer
from worldsim.scene.planes import cell_count, feature_plane, read_plane, sample_plane
from worldsim.scene.rays import Rays

_SURFACE_LEVEL = 1.0
"""Occupancy at a wall's surface."""
_ROOT_STEPS = 3
"""False-position steps that refine a surface's depth, to millimetres."""
_MIN_SLOPE = 4.0
"""Minimum occupancy slope (per metre) in the implicit-gradient denominator; clamps the surface gradient."""
_FAN_RAYS = 16
_FAN_RADII = (0.35, 0.5, 0.65, 0.85, 1.2, 2.0)
"""Distances of the fan's samples from the camera, in metres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticSceneConfig:
    """Extent and resolution of a static scene. Lengths in metres, world axes z up."""

    bounds: tuple[float, float, float, float]
    """x0, y0, x1, y1: the ground rectangle that is remembered."""
    floor: float = 0.0
    """Height of the floor."""
    ceiling: float = 4.0
    """Height of the ceiling."""
    clearance: float = 0.5
    """Distance that cameras keep from walls: visited positions, dilated by this, are free space."""
    cell: float = 0.125
    """Side of an occupancy and ground-feature cell."""
    floor_ceiling_cell: float = 0.0625
    """Side of a cell on the plane of floor and ceiling."""
    wall_cell: float = 0.04
    """Side of a cell on the two vertical planes."""
    channels: int = 16
    hidden: int = 64
    samples: int = 128
    """Ray samples; half are even up to ``near``, half logarithmic up to ``far``."""
    near: float = 3.0
    far: float = 32.0

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.bounds
        if not (x1 > x0 and y1 > y0 and self.ceiling > self.floor):
            rule = "a static scene needs x1 > x0, y1 > y0, ceiling > floor"
            raise ConfigError(rule, self.bounds, "swap them")
        if (
            self.samples < 2
            or min(self.cell, self.floor_ceiling_cell, self.wall_cell, self.near, self.far) <= 0
        ):
            rule = "a static scene needs 2 samples of a ray or more, and cells and distances above 0"
            raise ConfigError(rule, self.samples)

    @property
    def feature_dim(self) -> int:
        """Length of ``StaticScene.features``."""
        return _FAN_RAYS * len(_FAN_RADII) + self.channels


@cache
def _fan_radii(device: torch.device) -> Tensor:
    """The radii [1, 1, 6], made once: a tensor of the host's numbers is waited for."""
    with torch.inference_mode(False):
        return torch.tensor(_FAN_RADII, device=device)[None, None]


def _affine(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer`` over the first axis of ``x`` [inputs, n]."""
    return torch.addmm(layer.bias[:, None], layer.weight, x)


def _relu_in_place(x: Tensor) -> Tensor:
    """ReLU in place, any shape.

    The sign of a bfloat16 is that of an integer of the same bits, and those a CPU compares six times as fast.
    """
    if x.dtype == torch.bfloat16 and not x.requires_grad:
        x.view(torch.int16).clamp_(min=0)
        return x
    return x.relu_()


def _view_slices(views: Tensor) -> list[slice]:
    """Which views are painted at once: all, but without gradients a CPU takes one after the other.

    What lies between the operations on one view stays in its caches and in memory that it has at hand.
    """
    alone = views.device.type == "cpu" and not torch.is_grad_enabled()
    return [slice(i, i + 1) for i in range(len(views))] if alone else [slice(None)]


def _octaves(angle: Tensor, count: int) -> list[Tensor]:
    """sin and cos of ``angle``, twice it, four times it, ...: each pair doubles the angle of the last."""
    sin, cos = angle.sin(), angle.cos()
    waves = [sin, cos]
    for _ in range(count - 1):
        sin, cos = 2 * sin * cos, 1 - 2 * sin * sin
        waves += [sin, cos]
    return waves


class StaticScene(nn.Module):
    """Occupancy, feature planes and the colour network of one static scene."""

    depths: Tensor

    def __init__(self, config: StaticSceneConfig) -> None:
        super().__init__()
        self.config = config
        x0, y0, x1, y1 = config.bounds
        gw, gh = cell_count(x1 - x0, config.cell), cell_count(y1 - y0, config.cell)
        lw, lh = (
            cell_count(x1 - x0, config.floor_ceiling_cell),
            cell_count(y1 - y0, config.floor_ceiling_cell),
        )
        ww, wh = cell_count(x1 - x0, config.wall_cell), cell_count(y1 - y0, config.wall_cell)
        rise = cell_count((config.ceiling - config.floor) * 1.25, config.wall_cell)
        self.occupancy = nn.Parameter(torch.zeros(1, 1, gh, gw))
        self.ground_plane = feature_plane(config.channels, gh, gw)
        self.floor_ceiling_plane = feature_plane(config.channels, lh, lw)
        self.xz_plane = feature_plane(config.channels, rise, ww)
        self.yz_plane = feature_plane(config.channels, rise, wh)
        hidden, pixel = config.hidden, 2 * config.channels + 10
        self.column_in = nn.Linear(config.channels + 1, hidden)
        self.above_horizon_in, self.below_horizon_in = (
            nn.Linear(pixel, hidden, bias=False),
            nn.Linear(pixel, hidden, bias=False),
        )
        self.colour_mlp = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        even = torch.linspace(0.1, config.near, config.samples // 2 + 1)[:-1]
        far = torch.linspace(math.log(config.near), math.log(config.far), config.samples // 2).exp()
        self.register_buffer("depths", torch.cat([even, far]), persistent=False)
        self.renderer: SceneRenderer | None = None
        """Kernel of the rendering, for inference; None where unsupported."""

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support such a scene."""
        return variant() is not None and (self.config.channels, self.config.hidden) == (CHANNELS, HIDDEN)

    def enable_kernels(self) -> None:
        """Use kernels for inference from now on, where supported; the weights must not change."""
        config, (_, first, _, last) = self.config, self.colour_mlp
        if not self.supports_kernels:
            return
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        planes = ("ground_plane", "floor_ceiling_plane", "xz_plane", "yz_plane")
        x0, y0, x1, y1 = config.bounds
        self.renderer = SceneRenderer(
            {
                "occupancy": self.occupancy[0, 0],
                **{name: getattr(self, name)[0].permute(1, 2, 0) for name in planes},
                "depths": self.depths,
                "column_in": self.column_in.weight.T,
                "column_bias": self.column_in.bias,
                "above_horizon_in": self.above_horizon_in.weight.T,
                "below_horizon_in": self.below_horizon_in.weight.T,
                "middle": first.weight.T,
                "middle_bias": first.bias,
                "last": last.weight,
                "last_bias": last.bias,
            },
            {
                "floor": config.floor,
                "ceiling": config.ceiling,
                "centre_x": (x0 + x1) / 2,
                "centre_y": (y0 + y1) / 2,
                "scale_x": self._plane_per_metre[0],
                "scale_y": self._plane_per_metre[1],
                "surface_level": _SURFACE_LEVEL,
            },
        )

    def init_occupancy(self, positions: Tensor) -> None:
        """Start occupancy from experience: free around cameras seen at ``positions`` [n, 2], else solid."""
        h, w = self.occupancy.shape[2:]
        across, along = self._to_plane(positions[:, 0], positions[:, 1])
        column = ((across + 1) / 2 * w).long().clamp(0, w - 1)
        row = ((along + 1) / 2 * h).long().clamp(0, h - 1)
        count = torch.zeros(1, 1, h, w)
        count[0, 0, row, column] = 1
        reach = round(self.config.clearance / self.config.cell)
        free = F.max_pool2d(count, 2 * reach + 1, 1, reach)
        free = -F.max_pool2d(-F.max_pool2d(free, 5, 1, 2), 5, 1, 2)  # closing: fill the gaps between visits
        with torch.no_grad():
            self.occupancy.copy_(torch.where(free > 0, -3.0, 1.5))

    def forward(self, planar: Tensor, rays: Rays, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Look from ``planar`` [B, 4] (x, y, z, yaw; metres, radians counter-clockwise from +x).

        ``columns`` [B, N] picks columns per view (all by default). Returns colour [B, R, N, 3], about within
        [-1, 1], and forward depth [B, R, N] in metres.
        """
        if self.renderer is not None and columns is None and kernels_enabled():
            colour, reach = self.renderer(planar, rays.right, rays.down, rays.horizon)
            return colour.permute(0, 2, 3, 1), reach
        right = rays.right[None].expand(len(planar), -1) if columns is None else rays.right[columns]
        x, y, z, yaw = (value[:, None] for value in planar.unbind(-1))
        cos, sin = yaw.cos(), yaw.sin()
        (x, y), (across, along) = self._to_plane(x, y), self._plane_per_metre
        dx, dy = (cos + right * sin) * across, (sin - right * cos) * along
        depth, ground = self._march_rays(x, y, dx, dy)
        column = torch.cat([ground, depth.clamp(min=0.05).log()[None]])
        colours, reaches = [], []
        for some in _view_slices(planar):
            camera, direction = (x[some], y[some], z[some]), (dx[some], dy[some])
            surface, reach = self._pixel_features(camera, direction, depth[some], rays.down)
            colours.append(self._shade(column[:, some], surface, rays.horizon))
            reaches.append(reach)
        return torch.cat(colours, 2).permute(2, 1, 3, 0), torch.cat(reaches, 1).transpose(0, 1)

    def _shade(self, column: Tensor, surface: Tensor, horizon: int) -> Tensor:
        """Colour [3, R, B, N] of what is seen: ``column`` [C + 1, B, N] and ``surface`` [.., R, B, N].

        Features stay first, where they come from: moving them last would copy them all. Floor and ceiling
        have weights of their own, so rows above and below the horizon are multiplied apart.
        """
        shared = _affine(self.column_in, column.flatten(1)).to(surface.dtype)
        shared = shared.unflatten(1, (1, *column.shape[1:]))
        halves = []
        for layer, rows in (
            (self.above_horizon_in, slice(None, horizon)),
            (self.below_horizon_in, slice(horizon, None)),
        ):
            seen = surface[:, rows]
            same = shared.expand(-1, *seen.shape[1:]).flatten(1)
            mixed = torch.addmm(same, layer.weight, seen.flatten(1))
            halves.append(self._run_colour_mlp(mixed).unflatten(1, seen.shape[1:]))
        return torch.cat(halves, 1)

    def _run_colour_mlp(self, x: Tensor) -> Tensor:
        """The rest of the network: [hidden, pixels] to [3, pixels], in place: it waits for memory."""
        for part in self.colour_mlp:
            x = _affine(part, x) if isinstance(part, nn.Linear) else _relu_in_place(x)
        return x

    def features(self, planar: Tensor) -> Tensor:
        """Scene features of cameras [B, 4]: occupancy on a polar fan, then ground features.

        Returns [B, 16 * 6 + C] in (-1, 1).
        """
        x, y, _, yaw = (value[:, None, None] for value in planar.unbind(-1))
        if self.renderer is not None and kernels_enabled():
            return self.renderer.features(planar)
        angle = torch.arange(_FAN_RAYS, device=planar.device)[None, :, None] * (2 * math.pi / _FAN_RAYS) + yaw
        radius = _fan_radii(planar.device)
        fan = read_plane(self.occupancy, *self._to_plane(x + radius * angle.cos(), y + radius * angle.sin()))
        here = read_plane(self.ground_plane, *self._to_plane(x[:, 0], y[:, 0]))
        return torch.cat([fan[0].flatten(1).tanh(), here[:, :, 0].T.tanh()], -1)

    def _march_rays(self, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Depth at which each column's ray ends [B, N], and the ground features there [C, B, N].

        ``x``, ``y`` [B, 1] are cameras in the planes, ``dx``, ``dy`` [B, N] where a metre of forward depth
        leads each column there.

        It ends on the wall's surface, where occupancy rises through ``_SURFACE_LEVEL``. A ray that fades out
        in a soft density would end deeper the more directly it meets the wall, and textures would slide by
        texels as the camera turns (the bias that NeuS, 2106.10689, found in densities).
        """
        with torch.no_grad():
            depth, slope = self._find_surface(x, y, dx, dy)
        if torch.is_grad_enabled():  # implicit differentiation: how the surface moves with the occupancy
            height = self._occupancy_along((x, y), (dx, dy), depth[..., None])[..., 0]
            depth = depth - (height - height.detach()) / slope
        return depth, read_plane(self.ground_plane, torch.addcmul(x, dx, depth), torch.addcmul(y, dy, depth))

    def _find_surface(self, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Forward depth [B, N] of the first surface along each ray, and how steeply occupancy rises there.

        The first sample that is solid and the one before enclose it; false position narrows that down.
        """
        camera, direction = (x, y), (dx, dy)
        sampled = self._occupancy_along(camera, direction, self.depths)
        solid = sampled > _SURFACE_LEVEL
        last = len(self.depths) - 1
        index = torch.where(solid.any(-1), solid.int().argmax(-1), last)[..., None]
        before, depths = (index - 1).clamp(min=0), self.depths.expand_as(sampled)
        near, far = depths.gather(-1, before), depths.gather(-1, index)
        low, high = sampled.gather(-1, before) - _SURFACE_LEVEL, sampled.gather(-1, index) - _SURFACE_LEVEL
        slope = (high - low) / (far - near).clamp(min=1e-6)
        for _ in range(_ROOT_STEPS):
            share = (-low / (high - low).clamp(min=1e-6)).clamp(0.05, 0.95)
            between = torch.lerp(near, far, share)
            found = self._occupancy_along(camera, direction, between) - _SURFACE_LEVEL
            beyond = found > 0
            near, low = torch.where(beyond, near, between), torch.where(beyond, low, found)
            far, high = torch.where(beyond, between, far), torch.where(beyond, found, high)
        share = (-low / (high - low).clamp(min=1e-6)).clamp(0, 1)
        return torch.lerp(near, far, share)[..., 0], slope[..., 0].clamp(min=_MIN_SLOPE)

    def _occupancy_along(
        self, camera: tuple[Tensor, Tensor], direction: tuple[Tensor, Tensor], depth: Tensor
    ) -> Tensor:
        """Occupancy [B, N, S] of rays at forward depths [..., S]."""
        (x, y), (dx, dy) = camera, direction
        across = torch.addcmul(x[..., None], dx[..., None], depth)
        along = torch.addcmul(y[..., None], dy[..., None], depth)
        return read_plane(self.occupancy, across, along)[0]

    def _pixel_features(
        self,
        camera: tuple[Tensor, Tensor, Tensor],
        direction: tuple[Tensor, Tensor],
        depth: Tensor,
        down: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Features of wall and of floor or ceiling at the points that each pixel may show.

        ``camera`` is x, y (where it is in the planes) and z (metres), all [B, 1]; ``direction`` [B, N] is
        that of each column in the planes per metre of forward depth; ``depth`` [B, N] is where its wall is.
        Returns features [.., R, B, N] and the forward depth of each pixel [R, B, N].
        """
        config, (x, y, z), (dx, dy) = self.config, camera, direction
        down = down[:, None, None]
        wall_height = config.ceiling - config.floor
        drop = torch.where(down > 0, z - config.floor, config.ceiling - z)
        reach = torch.minimum(drop / down.abs().clamp(min=1e-4), depth)
        height = torch.addcmul((z - config.floor) / wall_height, down / -wall_height, depth)
        up = (height - 0.5) * 1.6  # the planes reach an eighth of the room beyond floor and ceiling
        wall_x, wall_y = torch.addcmul(x, dx, depth), torch.addcmul(y, dy, depth)
        both = sample_plane(self.xz_plane, wall_x.expand_as(up), up) * sample_plane(
            self.yz_plane, wall_y.expand_as(up), up
        )
        flat = sample_plane(
            self.floor_ceiling_plane, torch.addcmul(x, dx, reach), torch.addcmul(y, dy, reach)
        )
        scalars = [*_octaves(height * math.pi, 4), height.clamp(-2, 3), reach.clamp(min=0.05).log()]
        told = torch.stack(scalars).view(len(scalars), len(both), -1).transpose(0, 1)
        seen = torch.cat([part.to(self.above_horizon_in.weight.dtype) for part in (both, flat, told)], 1)
        return seen.transpose(0, 1).reshape(-1, *up.shape), reach

    def _to_plane(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Metres to what ``sample_plane`` takes."""
        (x0, y0, x1, y1), (across, along) = self.config.bounds, self._plane_per_metre
        return (x - (x0 + x1) / 2) * across, (y - (y0 + y1) / 2) * along

    @property
    def _plane_per_metre(self) -> tuple[float, float]:
        """Length of a metre in plane coordinates, which span two."""
        x0, y0, x1, y1 = self.config.bounds
        return 2 / (x1 - x0), 2 / (y1 - y0)
