"""A loaded world as data: config, networks, starts, and the results of a self-test."""

from __future__ import annotations

import numpy as np
import torch

from worldsim.checkpoint import StoredWorld, WorldConfig
from worldsim.context import Context
from worldsim.data.spec import SourceSpec
from worldsim.engine.self_test import Invariance, measure_invariance
from worldsim.engine.self_test_cache import cached
from worldsim.kernels.library import active_variant
from worldsim.networks import trained_units
from worldsim.sampling.protocol import whole_steps_near
from worldsim.scene.territory import Territory
from worldsim.units import UnitCost, cost_of, unit_text
from worldsim.utils.threads import single_thread_after_fork


class LoadedWorld:
    """A trained world, prepared for inference. Engines and batches read it."""

    def __init__(self, stored: StoredWorld, device: torch.device, dtype: torch.dtype) -> None:
        self._stored = stored
        self.networks = stored.networks
        self.params = self.networks.parameter_count()
        self.device, self.dtype = device, dtype
        single_thread_after_fork()
        self.networks.prepare(dtype)
        seen = [start.poses for start in stored.starts if start.poses is not None]
        if self.networks.has_poses and seen:
            poses = torch.from_numpy(np.concatenate(seen)).to(device, torch.float64)
            scale = self.networks.config.twist_scale
            self.networks.territory = Territory(self.networks.walkable_map, scale, poses)
        self._invariance: dict[tuple[str | None, int], Invariance] = {}

    @property
    def name(self) -> str:
        """Name of the world, e.g. "doom-maze"."""
        return self._stored.config.name

    @property
    def config(self) -> WorldConfig:
        """Configuration: everything but the weights."""
        return self._stored.config

    @property
    def unit_frames(self) -> int:
        """Frames that are predicted together; a control that changes takes effect at once in any case."""
        return self.networks.unit.frames

    @property
    def unit(self) -> str:
        """The unit that is predicted in one autoregressive step, e.g. "cube:4/2x2x2"; see ``read_unit``."""
        return unit_text(self.config.networks.unit)

    @property
    def units(self) -> tuple[str, ...]:
        """The units that it was trained for, ``unit`` first; see ``World.for_unit``."""
        return tuple(map(unit_text, trained_units(self.config.networks)))

    @property
    def unit_cost(self) -> UnitCost:
        """Autoregressive steps of a unit, its latency in frames, and the tokens of each step."""
        return cost_of(self.networks.unit)

    @property
    def allowed_denoising_steps(self) -> tuple[int, ...]:
        """Denoising steps K that its sampler takes, fewest first."""
        return tuple(sorted(self.networks.sampler.allowed_steps))

    def denoising_steps_near(self, few: int) -> int:
        """``few`` denoising steps K where so many draw whole frames, else the sampler's default."""
        return whole_steps_near(self.networks.sampler, few)

    @property
    def draws_coarse_frames(self) -> bool:
        """True where fewer denoising steps leave details undrawn: a frame may be coarse instead of late."""
        sampler = self.networks.sampler
        return len(sampler.whole_steps) < len(sampler.allowed_steps)

    @property
    def tells_uncertainty(self) -> bool:
        """True where ``Step.uncertainty`` is told: with poses, or where the chances of bits are known."""
        return self.networks.tells_uncertainty

    @property
    def spec(self) -> SourceSpec:
        """The source it was learnt from, at the world's frame size."""
        return self._stored.config.source

    @property
    def starts(self) -> tuple[Context, ...]:
        """Starts: given frames of held-out episodes."""
        return self._stored.starts

    @property
    def card(self) -> str:
        """Model card in Markdown."""
        return self._stored.card

    @property
    def weights_sha256(self) -> str:
        """sha256 of the weights; a snapshot fits the world with the same hash."""
        return self._stored.weights_sha256

    @property
    def batch_invariant(self) -> bool:
        """True if a row's frames are the same to the bit alone and in every batch.

        A CPU finds out by a self-test, in about a second, when the first engine is made, and keeps the
        result on disk (``~/.cache/worldsim``, or ``$WORLDSIM_CACHE``). Where it is False a CPU steps every
        row alone, so that frames repeat there, too. On a GPU it is always False: the last bits of a row may
        depend on the size of its batch.
        """
        return self.invariance.batch

    @property
    def invariance(self) -> Invariance:
        """Results of the self-test for the threads and kernels that are in use now."""
        if self.device.type != "cpu":
            return Invariance(batch=False, threads=False)
        kernels, threads = active_variant(), torch.get_num_threads()
        if (kernels, threads) not in self._invariance:
            facts = {
                "weights": self.weights_sha256,
                "networks": repr(self.config.networks),
                "dtype": self.dtype,
            }
            self._invariance[kernels, threads] = cached(
                {**facts, "kernels": kernels, "threads": threads},
                lambda: measure_invariance(self.networks, self.starts, threads),
            )
        return self._invariance[kernels, threads]
