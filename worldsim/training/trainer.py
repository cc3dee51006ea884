"""One trainer that knows no objective: stages share a wall clock; it stops and resumes at any step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from worldsim.errors import CheckpointError, ConfigError
from worldsim.networks import Networks
from worldsim.peak import matmul_peak
from worldsim.ticker import Ticker
from worldsim.training.parallel import ALONE, Group
from worldsim.training.stage import Logs, Stage, rate_at
from worldsim.training.state import Clock, Moments, load_state, save_state
from worldsim.training.throughput import Throughput

Figures = dict[str, float]
_TELL_EVERY = 0.2
"""Seconds between progress lines: a GPU must not be waited for after every step."""


class Writer(Protocol):
    """Where figures go; TensorBoard's writer is one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write one figure."""


class Trainer:
    """Runs stages, saves every few minutes, logs figures and the share of the machine's matmul peak.

    Args:
        networks: what is trained.
        stages: in order; their shares of the minutes are normalised.
        out: folder of the state.
        minutes: wall clock that the stages share, saving and pictures included.
        seed: of all chance.
        writer: where figures go.
        look: called with the stage and the step whenever the state is saved; tells figures to log.
        save_every: seconds between saves.
        group: the processes that train together; the first one writes, saves and looks.
    """

    def __init__(
        self,
        networks: Networks,
        stages: list[Stage],
        out: Path,
        minutes: float,
        seed: int,
        writer: Writer | None = None,
        look: Callable[[str, int], Logs] | None = None,
        save_every: float = 120.0,
        group: Group = ALONE,
    ) -> None:
        self.networks, self.stages, self.out, self.seed = networks, stages, out, seed
        self.writer, self.look, self.save_every, self.group = writer, look, save_every, group
        whole = sum(stage.share for stage in stages)
        if whole <= 0:
            raise ConfigError("stages must have a share of the minutes", [stage.name for stage in stages])
        self.budgets = [minutes * 60 * stage.share / whole for stage in stages]
        """Seconds of each stage."""
        self.clock = self._clock(0)
        self.peak = matmul_peak(networks.device)
        """FLOP/s of the machine's matmuls."""
        self._optimizer: torch.optim.Optimizer | None = None
        self._seen: Figures = {}  # what the last look told
        self._moments: Moments = {}  # of a state that was read, until an optimizer takes them up

    def resume(self) -> None:
        """Go on from the state in the output folder.

        Raises:
            CheckpointError: there is none, or one of other networks or stages.
        """
        clock, moments = load_state(self.out, self.networks)
        if clock.name not in ("", self._clock(clock.stage).name):
            rule = "a training must be resumed with the stages it began with"
            raise CheckpointError(rule, clock.name, "give the same --stages")
        self.clock, self._moments = clock, moments

    def run(self) -> bool:
        """Train to the end. Returns False where Ctrl-C ended it early; the state is saved either way."""
        with Ticker("training", sum(self.budgets)) as ticker:
            ticker.begin(self._spent())
            try:
                while self.clock.stage < len(self.stages):
                    self._run_stage(self.stages[self.clock.stage], ticker)
            except KeyboardInterrupt:
                self._save()
                return False
        return True

    def _run_stage(self, stage: Stage, ticker: Ticker) -> None:
        """Take steps until the stage's seconds are spent."""
        number, before = self.clock.stage, self.clock.seconds
        budget = self.budgets[number]
        if self.clock.step == 0 and budget > 0 and stage.start is not None:
            stage.start()
        self.group.agree(self.networks)
        optimizer = self._optimizer = self._make_optimizer(stage)
        throughput = Throughput(self.peak)
        began = saved = told = time.monotonic()
        while self.clock.seconds < budget:
            logs = throughput.run(lambda: self._step(stage, optimizer))
            now = time.monotonic()
            seconds = self.group.told(before + now - began)
            self.clock = self._clock(number, seconds, self.clock.step + 1)
            if self.clock.step == 1 or now - told > _TELL_EVERY:
                self._tell(stage, _read(logs), throughput, ticker)
                told = now
            if now - saved > self.save_every:
                self._save()
                self._look(stage)
                saved = now
        step = self.clock.step
        self.clock, self._optimizer = self._clock(number + 1), None
        self._save()
        self._look(stage, step)

    def _step(self, stage: Stage, optimizer: torch.optim.Optimizer) -> Logs:
        """One step. Its chance hangs on (seed, stage, step, rank): a resumed run draws what it would have."""
        clock, kind = self.clock, self.networks.device.type
        progress = min(1.0, clock.seconds / max(self.budgets[clock.stage], 1e-9))
        factor = rate_at(progress, clock.step, stage.hold)
        for group, rate in zip(optimizer.param_groups, stage.rates, strict=True):
            group["lr"] = rate.peak * factor
        rng = np.random.default_rng([self.seed, clock.stage, clock.step, *self.group.chance])
        with torch.autocast(kind, torch.bfloat16) if kind in ("cpu", "cuda") else nullcontext():
            loss, logs = stage.objective(rng, progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learnt, loss = [p for rate in stage.rates for p in rate.parameters], loss.detach()
        self.group.average(loss, learnt)
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        return {"loss": loss, **logs}

    def _make_optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        """AdamW over the stage's weights, which alone get gradients; with its moments where it is resumed."""
        self.networks.requires_grad_(False)
        for rate in stage.rates:
            for parameter in rate.parameters:
                parameter.requires_grad_(True)
        groups = [
            {"params": rate.parameters, "lr": rate.peak, "weight_decay": rate.decay} for rate in stage.rates
        ]
        fused = self.networks.device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8, fused=fused)
        if self._moments:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self._moments})
            self._moments = {}
        return optimizer

    def _clock(self, number: int, seconds: float = 0.0, step: int = 0) -> Clock:
        done = number >= len(self.stages)
        name = "" if done else self.stages[number].name
        return Clock(stage=number, seconds=seconds, step=step, done=done, name=name)

    def _spent(self) -> float:
        return sum(self.budgets[: self.clock.stage]) + self.clock.seconds

    def _tell(self, stage: Stage, logs: Figures, throughput: Throughput, ticker: Ticker) -> None:
        if not self.group.is_first:
            return
        step, speed = self.clock.step, _read(throughput.read())
        figures = " ".join(f"{name} {value:.3f}" for name, value in (logs | self._seen).items())
        pace = f", {speed['steps_per_s']:.1f} steps/s, {speed['peak_share']:.0%} of peak"
        ticker.update(self._spent(), f"{stage.name} {step}: {figures}{pace}")
        self._write(stage, logs | speed, step)

    def _write(self, stage: Stage, logs: Figures, step: int) -> None:
        if self.writer is not None:
            for name, value in logs.items():
                self.writer.add_scalar(f"{stage.name}/{name}", value, step)

    def _save(self) -> None:
        if self._moments or not self.group.is_first:
            return  # interrupted before going on: the state on disk is whole, this one would lack them
        save_state(self.out, self.networks, self._optimizer, self.clock)

    def _look(self, stage: Stage, step: int | None = None) -> None:
        if self.look is not None and self.group.is_first:
            step = self.clock.step if step is None else step
            self._seen = _read(self.look(stage.name, step))
            self._write(stage, self._seen, step)


def _read(logs: Logs) -> Figures:
    """``logs`` as numbers; waits for the device."""
    return {name: float(value) for name, value in logs.items()}
