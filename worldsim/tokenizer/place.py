"""A place: what the weights remember of one static scene, read along camera rays.

Shapes: B views, C channels, N columns of a view, R rows, S samples along a ray.

Plain latent re-synthesis spends a small budget on relearning every texture for every pose. A place keeps
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

from worldsim.camera import Intrinsics
from worldsim.errors import ConfigError
from worldsim.kernels.library import may_run, variant
from worldsim.kernels.look import CHANNELS, HIDDEN, Look
from worldsim.tokenizer.layers import points

_SOLID = 1.0
"""Occupancy from which on there is wall."""
_NARROWINGS = 3
"""Times that what encloses a surface is narrowed down: to millimetres."""
_GENTLEST = 4.0
"""Rise of occupancy a metre below which a surface is not moved any faster by what it is taught."""
_FAN_RAYS = 16
_FAN_RADII = (0.35, 0.5, 0.65, 0.85, 1.2, 2.0)
"""Metres from the camera at which dynamics feel for walls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceConfig:
    """Extent and resolution of a place. Lengths in metres, world axes z up."""

    bounds: tuple[float, float, float, float]
    """x0, y0, x1, y1: the ground rectangle that is remembered."""
    floor: float = 0.0
    """Height of the floor."""
    ceiling: float = 4.0
    """Height of the ceiling."""
    body: float = 0.5
    """How far from the nearest wall a camera stays: what it visits, grown by this, is free space."""
    cell: float = 0.125
    """Side of an occupancy and ground-feature cell."""
    level_cell: float = 0.0625
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
            raise ConfigError("a place needs x1 > x0, y1 > y0, ceiling > floor", self.bounds, "swap them")
        if self.samples < 2 or min(self.cell, self.level_cell, self.wall_cell, self.near, self.far) <= 0:
            rule = "a place needs 2 samples of a ray or more, and cells and distances above 0"
            raise ConfigError(rule, self.samples)

    @property
    def surroundings(self) -> int:
        """Length of what ``Place.surroundings`` tells."""
        return _FAN_RAYS * len(_FAN_RADII) + self.channels


@dataclass(frozen=True, slots=True)
class Rays:
    """Pixels of a level pinhole camera: ``right`` [N] and ``down`` [R] per unit of forward depth."""

    right: Tensor
    down: Tensor
    """Upwards first."""
    horizon: int
    """Rows that look up."""

    @staticmethod
    def of(intrinsics: Intrinsics, height: int, width: int) -> Rays:
        """All columns and rows of a frame of ``height`` x ``width`` pixels."""
        columns = (torch.arange(width) + 0.5 - intrinsics.cx) / intrinsics.fx
        rows = (torch.arange(height) + 0.5 - intrinsics.cy) / intrinsics.fy
        horizon = min(height, max(0, math.floor(intrinsics.cy + 0.5)))
        return Rays(columns.float(), rows.float(), horizon)


def _sampled(plane: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear read of ``plane`` [1, C, h, w] at x, y [...] in [-1, 1] -> [parts, C, points of a part].

    Points share one grid instead of one for each view: expanding the plane would make its gradient as many
    planes big. A CPU's threads share the work by samples, so that without gradients there is one for each.
    """
    grid, parts = points(x, y).view(1, 1, -1, 2), 1
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        parts = math.gcd(x.numel(), torch.get_num_threads())
    grid = grid.view(parts, 1, -1, 2)
    found = F.grid_sample(plane.expand(parts, -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return found[:, :, 0]


def _lookup(plane: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear read of ``plane`` [1, C, h, w] at x, y [...] in [-1, 1] -> [C, ...]."""
    return _sampled(plane, x, y).transpose(0, 1).reshape(plane.shape[1], *x.shape)


@cache
def _fan(device: torch.device) -> Tensor:
    """The radii [1, 1, 6], made once: a tensor of the host's numbers is waited for."""
    with torch.inference_mode(False):
        return torch.tensor(_FAN_RADII, device=device)[None, None]


def _affine(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer`` over the first axis of ``x`` [inputs, n]."""
    return torch.addmm(layer.bias[:, None], layer.weight, x)


def _rectify(x: Tensor) -> Tensor:
    """ReLU in place, any shape.

    The sign of a bfloat16 is that of an integer of the same bits, and those a CPU compares six times as fast.
    """
    if x.dtype == torch.bfloat16 and not x.requires_grad:
        x.view(torch.int16).clamp_(min=0)
        return x
    return x.relu_()


def _side_by_side(views: Tensor) -> list[slice]:
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


def _cells(length: float, cell: float) -> int:
    return max(4, round(length / cell))


def _plane(channels: int, height: int, width: int) -> nn.Parameter:
    """Channels last in memory: what one point reads lies together, which halves the time of a lookup."""
    plane = torch.randn(1, channels, height, width) * 0.1
    return nn.Parameter(plane.contiguous(memory_format=torch.channels_last))


class Place(nn.Module):
    """Occupancy, feature planes and the colour network of one static scene."""

    depths: Tensor

    def __init__(self, config: PlaceConfig) -> None:
        super().__init__()
        self.config = config
        x0, y0, x1, y1 = config.bounds
        gw, gh = _cells(x1 - x0, config.cell), _cells(y1 - y0, config.cell)
        lw, lh = _cells(x1 - x0, config.level_cell), _cells(y1 - y0, config.level_cell)
        ww, wh = _cells(x1 - x0, config.wall_cell), _cells(y1 - y0, config.wall_cell)
        rise = _cells((config.ceiling - config.floor) * 1.25, config.wall_cell)
        self.occupancy = nn.Parameter(torch.zeros(1, 1, gh, gw))
        self.ground = _plane(config.channels, gh, gw)
        self.level = _plane(config.channels, lh, lw)
        self.wall_x = _plane(config.channels, rise, ww)
        self.wall_y = _plane(config.channels, rise, wh)
        hidden, pixel = config.hidden, 2 * config.channels + 10
        self.column = nn.Linear(config.channels + 1, hidden)
        self.above, self.below = nn.Linear(pixel, hidden, bias=False), nn.Linear(pixel, hidden, bias=False)
        self.colour = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        even = torch.linspace(0.1, config.near, config.samples // 2 + 1)[:-1]
        far = torch.linspace(math.log(config.near), math.log(config.far), config.samples // 2).exp()
        self.register_buffer("depths", torch.cat([even, far]), persistent=False)
        self.look: Look | None = None
        """What looks where nothing is taught, if there are kernels."""

    @property
    def suits_kernels(self) -> bool:
        """Whether there are kernels for such a place."""
        return variant() is not None and (self.config.channels, self.config.hidden) == (CHANNELS, HIDDEN)

    def quicken(self) -> None:
        """Let kernels look from now on, if there are any for such a place; its weights must stay."""
        config, (_, first, _, last) = self.config, self.colour
        if not self.suits_kernels:
            return
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        planes = ("ground", "level", "wall_x", "wall_y")
        x0, y0, x1, y1 = config.bounds
        self.look = Look(
            {
                "occupancy": self.occupancy[0, 0],
                **{name: getattr(self, name)[0].permute(1, 2, 0) for name in planes},
                "depths": self.depths,
                "column": self.column.weight.T,
                "column_bias": self.column.bias,
                "above": self.above.weight.T,
                "below": self.below.weight.T,
                "middle": first.weight.T,
                "middle_bias": first.bias,
                "last": last.weight,
                "last_bias": last.bias,
            },
            {
                "floor": config.floor,
                "ceiling": config.ceiling,
                "x0": (x0 + x1) / 2,
                "y0": (y0 + y1) / 2,
                "across": self._scale[0],
                "along": self._scale[1],
                "solid": _SOLID,
            },
        )

    def mark_free(self, visited: Tensor) -> None:
        """Start occupancy from experience: free around cameras seen at ``visited`` [n, 2], else solid."""
        h, w = self.occupancy.shape[2:]
        across, along = self._unit(visited[:, 0], visited[:, 1])
        column = ((across + 1) / 2 * w).long().clamp(0, w - 1)
        row = ((along + 1) / 2 * h).long().clamp(0, h - 1)
        count = torch.zeros(1, 1, h, w)
        count[0, 0, row, column] = 1
        reach = round(self.config.body / self.config.cell)
        free = F.max_pool2d(count, 2 * reach + 1, 1, reach)
        free = -F.max_pool2d(-F.max_pool2d(free, 5, 1, 2), 5, 1, 2)  # closing: fill the gaps between visits
        with torch.no_grad():
            self.occupancy.copy_(torch.where(free > 0, -3.0, 1.5))

    def forward(self, planar: Tensor, rays: Rays, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Look from ``planar`` [B, 4] (x, y, z, yaw; metres, radians counter-clockwise from +x).

        ``columns`` [B, N] picks columns per view (all by default). Returns colour [B, R, N, 3], about within
        [-1, 1], and forward depth [B, R, N] in metres.
        """
        if self.look is not None and columns is None and may_run():
            colour, reach = self.look(planar, rays.right, rays.down, rays.horizon)
            return colour.permute(0, 2, 3, 1), reach
        right = rays.right[None].expand(len(planar), -1) if columns is None else rays.right[columns]
        x, y, z, yaw = (value[:, None] for value in planar.unbind(-1))
        cos, sin = yaw.cos(), yaw.sin()
        (x, y), (across, along) = self._unit(x, y), self._scale
        dx, dy = (cos + right * sin) * across, (sin - right * cos) * along
        depth, ground = self._march(x, y, dx, dy)
        column = torch.cat([ground, depth.clamp(min=0.05).log()[None]])
        colours, reaches = [], []
        for some in _side_by_side(planar):
            camera, direction = (x[some], y[some], z[some]), (dx[some], dy[some])
            surface, reach = self._surface(camera, direction, depth[some], rays.down)
            colours.append(self._paint(column[:, some], surface, rays.horizon))
            reaches.append(reach)
        return torch.cat(colours, 2).permute(2, 1, 3, 0), torch.cat(reaches, 1).transpose(0, 1)

    def _paint(self, column: Tensor, surface: Tensor, horizon: int) -> Tensor:
        """Colour [3, R, B, N] of what is seen: ``column`` [C + 1, B, N] and ``surface`` [.., R, B, N].

        Features stay first, where they come from: moving them last would copy them all. Floor and ceiling
        have weights of their own, so rows above and below the horizon are multiplied apart.
        """
        shared = _affine(self.column, column.flatten(1)).to(surface.dtype)
        shared = shared.unflatten(1, (1, *column.shape[1:]))
        halves = []
        for layer, rows in ((self.above, slice(None, horizon)), (self.below, slice(horizon, None))):
            seen = surface[:, rows]
            same = shared.expand(-1, *seen.shape[1:]).flatten(1)
            mixed = torch.addmm(same, layer.weight, seen.flatten(1))
            halves.append(self._colour(mixed).unflatten(1, seen.shape[1:]))
        return torch.cat(halves, 1)

    def _colour(self, x: Tensor) -> Tensor:
        """The rest of the network: [hidden, pixels] to [3, pixels], in place: it waits for memory."""
        for part in self.colour:
            x = _affine(part, x) if isinstance(part, nn.Linear) else _rectify(x)
        return x

    def surroundings(self, planar: Tensor) -> Tensor:
        """What is around cameras [B, 4], for dynamics: occupancy on a polar fan, then ground features.

        Returns [B, 16 * 6 + C] in (-1, 1).
        """
        x, y, _, yaw = (value[:, None, None] for value in planar.unbind(-1))
        if self.look is not None and may_run():
            return self.look.surroundings(planar)
        angle = torch.arange(_FAN_RAYS, device=planar.device)[None, :, None] * (2 * math.pi / _FAN_RAYS) + yaw
        radius = _fan(planar.device)
        fan = _lookup(self.occupancy, *self._unit(x + radius * angle.cos(), y + radius * angle.sin()))
        here = _lookup(self.ground, *self._unit(x[:, 0], y[:, 0]))
        return torch.cat([fan[0].flatten(1).tanh(), here[:, :, 0].T.tanh()], -1)

    def _march(self, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Where each column's ray ends [B, N] and the ground features found there [C, B, N].

        ``x``, ``y`` [B, 1] are cameras in the planes, ``dx``, ``dy`` [B, N] where a metre of forward depth
        leads each column there.

        It ends on the wall's surface, where occupancy rises through ``_SOLID``. A ray that fades out in
        softly filled space ends the deeper, seen from the wall, the straighter it meets it, and textures
        slide by texels as the camera turns (the bias that NeuS, 2106.10689, found in densities).
        """
        with torch.no_grad():
            depth, slope = self._hit(x, y, dx, dy)
        if torch.is_grad_enabled():  # implicit differentiation: how the surface moves with the occupancy
            height = self._along((x, y), (dx, dy), depth[..., None])[..., 0]
            depth = depth - (height - height.detach()) / slope
        return depth, _lookup(self.ground, torch.addcmul(x, dx, depth), torch.addcmul(y, dy, depth))

    def _hit(self, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Forward depth [B, N] of the first surface along each ray, and how steeply occupancy rises there.

        The first sample that is solid and the one before enclose it; false position narrows that down.
        """
        camera, direction = (x, y), (dx, dy)
        sampled = self._along(camera, direction, self.depths)
        solid = sampled > _SOLID
        last = len(self.depths) - 1
        index = torch.where(solid.any(-1), solid.int().argmax(-1), last)[..., None]
        before, depths = (index - 1).clamp(min=0), self.depths.expand_as(sampled)
        near, far = depths.gather(-1, before), depths.gather(-1, index)
        low, high = sampled.gather(-1, before) - _SOLID, sampled.gather(-1, index) - _SOLID
        slope = (high - low) / (far - near).clamp(min=1e-6)
        for _ in range(_NARROWINGS):
            share = (-low / (high - low).clamp(min=1e-6)).clamp(0.05, 0.95)
            between = torch.lerp(near, far, share)
            found = self._along(camera, direction, between) - _SOLID
            beyond = found > 0
            near, low = torch.where(beyond, near, between), torch.where(beyond, low, found)
            far, high = torch.where(beyond, between, far), torch.where(beyond, found, high)
        share = (-low / (high - low).clamp(min=1e-6)).clamp(0, 1)
        return torch.lerp(near, far, share)[..., 0], slope[..., 0].clamp(min=_GENTLEST)

    def _along(
        self, camera: tuple[Tensor, Tensor], direction: tuple[Tensor, Tensor], depth: Tensor
    ) -> Tensor:
        """Occupancy [B, N, S] of rays at forward depths [..., S]."""
        (x, y), (dx, dy) = camera, direction
        across = torch.addcmul(x[..., None], dx[..., None], depth)
        along = torch.addcmul(y[..., None], dy[..., None], depth)
        return _lookup(self.occupancy, across, along)[0]

    def _surface(
        self,
        camera: tuple[Tensor, Tensor, Tensor],
        direction: tuple[Tensor, Tensor],
        depth: Tensor,
        down: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the wall and the floor or ceiling look like where each pixel may show them.

        ``camera`` is x, y (where it is in the planes) and z (metres), all [B, 1]; ``direction`` [B, N] is
        that of each column in the planes per metre of forward depth; ``depth`` [B, N] is where its wall is.
        Returns features [.., R, B, N] and the forward depth of each pixel [R, B, N].
        """
        config, (x, y, z), (dx, dy) = self.config, camera, direction
        down = down[:, None, None]
        room = config.ceiling - config.floor
        drop = torch.where(down > 0, z - config.floor, config.ceiling - z)
        reach = torch.minimum(drop / down.abs().clamp(min=1e-4), depth)
        height = torch.addcmul((z - config.floor) / room, down / -room, depth)
        up = (height - 0.5) * 1.6  # the planes reach an eighth of the room beyond floor and ceiling
        wall_x, wall_y = torch.addcmul(x, dx, depth), torch.addcmul(y, dy, depth)
        both = _sampled(self.wall_x, wall_x.expand_as(up), up) * _sampled(
            self.wall_y, wall_y.expand_as(up), up
        )
        flat = _sampled(self.level, torch.addcmul(x, dx, reach), torch.addcmul(y, dy, reach))
        scalars = [*_octaves(height * math.pi, 4), height.clamp(-2, 3), reach.clamp(min=0.05).log()]
        told = torch.stack(scalars).view(len(scalars), len(both), -1).transpose(0, 1)
        seen = torch.cat([part.to(self.above.weight.dtype) for part in (both, flat, told)], 1)
        return seen.transpose(0, 1).reshape(-1, *up.shape), reach

    def _unit(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Metres to what ``_sampled`` takes."""
        (x0, y0, x1, y1), (across, along) = self.config.bounds, self._scale
        return (x - (x0 + x1) / 2) * across, (y - (y0 + y1) / 2) * along

    @property
    def _scale(self) -> tuple[float, float]:
        """What a metre is in the planes, which are two long and wide."""
        x0, y0, x1, y1 = self.config.bounds
        return 2 / (x1 - x0), 2 / (y1 - y0)
