"""The decoder's network gives by kernels what its layers give one after another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kernels.compare import SCENE, both, built, same, threads
from tests.tiny import random_like, stir
from worldsim.camera import Intrinsics
from worldsim.kernels.decoder import DecoderKernel, supports
from worldsim.kernels.warp import Warp
from worldsim.scene.rays import Rays
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer
from worldsim.tokenizer.layers import ResidualStack
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame

pytestmark = built

Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Network(nn.Module):
    """The layers that a decoder is made of, for cells of ``grid``."""

    def __init__(
        self, grid: tuple[int, int] = (8, 12), width: int = 16, depth: int = 2, patch: int = 5, pool: int = 4
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.size, self.tokens = (grid[0] * patch, grid[1] * patch), (grid[0] // pool, grid[1] // pool)
        self.patch, self.pool, self.width, self.channels = patch, pool, width, 4
        self.prior_in = nn.Conv2d(8, width, 3 * patch, stride=patch, padding=patch)
        self.latent_in = nn.Conv2d(self.channels, width, 3, padding=1)
        self.decoder = ResidualStack(width, 6, depth)
        self.norm = nn.GroupNorm(8, width)
        self.out = nn.Conv2d(width, 2 + 4 * patch**2, 3, padding=1)
        stir(self)
        self.eval().requires_grad_(False)

    def given(self, count: int, seed: int = 0) -> Given:
        """What is known of ``count`` frames, their latents and films."""
        picture, (rows, columns) = (count, 3, *self.size), self.tokens
        return (
            random_like(picture, seed).clamp(-1, 1),
            random_like(picture, seed + 1).clamp(-1, 1),
            random_like((count, 1, *self.size), seed + 2).sigmoid(),
            random_like((count, *self.size), seed + 3).exp(),
            random_like((count, rows * columns, self.channels), seed + 4).tanh(),
            self.decoder.films(random_like((count, 6), seed + 5)),
        )

    def forward(
        self, prior: Tensor, warped: Tensor, valid: Tensor, reach: Tensor, latent: Tensor, films: Tensor
    ) -> Tensor:
        """As ``DecoderKernel``."""
        near = (1 + reach[:, None]).reciprocal()
        planes = latent.transpose(1, 2).unflatten(2, self.tokens)
        planes = F.interpolate(planes, scale_factor=self.pool, mode="bilinear", align_corners=False)
        x = self.prior_in(torch.cat([prior, warped, valid, near], 1)) + self.latent_in(planes)
        for block, film in zip(self.decoder.blocks, films.unbind(1), strict=True):
            scale, shift = film[:, :, None, None].chunk(2, 1)
            hidden = block.norm2(block.conv1(F.silu(block.norm1(x)))) * (1 + scale) + shift
            x = x + block.conv2(F.silu(hidden))
        return self.out(F.silu(self.norm(x))).permute(0, 2, 3, 1)

    def by_kernels(self) -> DecoderKernel:
        height, width = self.size
        camera = Intrinsics(width / 2, height / 2, width / 2, height / 2)
        rays = Rays.of(camera, height, width)
        pictures = Warp(camera, rays.right, rays.down, self.patch, self.pool)
        layers = [(one.norm1, one.conv1, one.norm2, one.conv2) for one in self.decoder.blocks]
        return DecoderKernel(pictures, self.prior_in, self.latent_in, layers, (self.norm, self.out))


def check(network: Network, given: Given) -> None:
    made, wanted = network.by_kernels()(*given), network(*given)
    assert made.shape == wanted.shape
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)
    assert wanted.std() > 0.2


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("depth", [1, 3, 8])
def test_it_is_the_network_of_any_depth(depth: int) -> None:
    network = Network(depth=depth)
    check(network, network.given(2))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("grid", [(4, 4), (4, 20), (16, 8)])
@pytest.mark.parametrize(("patch", "pool"), [(1, 4), (3, 2), (2, 1)])
def test_it_is_the_network_on_any_grid(grid: tuple[int, int], patch: int, pool: int) -> None:
    network = Network(grid=grid, patch=patch, pool=pool)
    check(network, network.given(5))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("width", [16, 48, 64, 80])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_it_is_the_network_of_any_width(width: int, patch: int) -> None:
    network = Network(width=width, patch=patch)
    assert supports((8, 12), width, 2, patch)
    check(network, network.given(3))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("scale", [0.0, 1e-5, 1e-4, 1e-3])
def test_it_is_the_network_where_norms_have_next_to_nothing_to_scale(scale: float) -> None:
    network = Network()
    for part in (network.prior_in, network.latent_in):
        part.weight.mul_(scale)
        part.bias.zero_()
    check(network, network.given(2))


@pytest.mark.usefixtures("each_variant")
def test_a_world_is_the_same_among_others() -> None:
    network = Network()
    decoder, given = network.by_kernels(), network.given(6)
    whole = decoder(*given)
    for count in (1, 2, 4, 5):
        for i in range(0, 6, count):
            same(decoder(*(part[i : i + count] for part in given)), whole[i : i + count])
    odd = [part.clone() for part in given]
    for part in odd:
        part[::2] = torch.nan
    same(decoder(*odd)[1::2], whole[1::2])


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("count", [1, 6])
def test_a_frame_is_the_same_on_two_threads(count: int) -> None:
    network = Network()
    decoder, given = network.by_kernels(), network.given(count)
    alone = decoder(*given)
    with threads(2):
        for _ in range(3):
            same(decoder(*given), alone)


def test_callers_at_the_same_time_do_not_meet() -> None:
    network = Network()
    decoder, batches = network.by_kernels(), [network.given(3, seed) for seed in range(4)]
    wanted = [decoder(*given) for given in batches]

    def work(number: int) -> list[Tensor]:
        with torch.no_grad():
            return [decoder(*batches[number]) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for made, right in zip(pool.map(work, range(4)), wanted, strict=True):
            for one in made:
                same(one, right)


def test_what_is_given_may_lie_anyhow_in_memory() -> None:
    network = Network()
    decoder, given = network.by_kernels(), network.given(3)
    apart = [part.transpose(0, -1).contiguous().transpose(0, -1) for part in given]
    assert not any(part.is_contiguous() for part in apart)
    same(decoder(*apart), decoder(*given))


@pytest.mark.parametrize(
    ("grid", "width", "depth", "suited"),
    [
        ((8, 12), 64, 3, True),
        ((4, 4), 16, 8, True),
        ((6, 12), 64, 3, False),
        ((8, 10), 64, 3, False),
        ((8, 12), 24, 3, False),
        ((8, 12), 64, 9, False),
    ],
)
def test_what_it_is_not_written_for_is_refused(
    grid: tuple[int, int], width: int, depth: int, suited: bool
) -> None:
    assert supports(grid, width, depth, 5) == suited


@pytest.mark.parametrize(
    ("changed", "quick"),
    [
        ({}, True),
        ({"size": (30, 40), "pool": 2}, False),
        ({"width": 8}, False),
        ({"width": 24}, False),
        ({"depth": 9}, False),
    ],
)
def test_a_tokenizer_is_as_quick_as_suits_its_decoder(changed: dict[str, object], quick: bool) -> None:
    shape = {"size": (40, 60), "width": 16, "depth": 2, "channels": 4, **changed}
    size = shape.pop("size")
    camera = Intrinsics(30.0, 30.0, 30.0, 20.0)
    tokenizer = HistoryTokenizer(HistoryConfig(**shape, scene=SCENE), size, 9, camera)
    tokenizer.enable_kernels(decodes=True)
    assert tokenizer.uses_kernels == quick


def test_a_decoder_without_blocks_is_one_too() -> None:
    camera = Intrinsics(30.0, 30.0, 30.0, 20.0)
    config = HistoryConfig(width=16, depth=0, scene=SCENE)
    tokenizer = HistoryTokenizer(config, (40, 60), 9, camera).eval().requires_grad_(False)
    stir(tokenizer)
    past = PreviousFrame(random_like((2, 3, 40, 60), 0), random_like((2, 40, 60), 1).exp())
    prior = tokenizer.prior(
        past, MotionCondition(torch.zeros(2, 9), torch.ones(2, 4), torch.eye(4).expand(2, 4, 4))
    )
    tokenizer.enable_kernels(decodes=True)
    quick, slow = both(lambda: tokenizer.decode(random_like((2, 6, 16), 2), prior))
    torch.testing.assert_close(quick, slow.clamp(-1, 1), atol=1e-3, rtol=0)
