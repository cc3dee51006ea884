"""One trainer that knows no objective: stages share a wall clock; it can be interrupted and resumed at any step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.flop_counter import FlopCounterMode

from worldsim.networks import Networks
from worldsim.peak import matmul_peak
from worldsim.training.stage import Logs, Stage, rate_at
from worldsim.training.state import Clock, load_state, save_state


class Writer(Protocol):
    """Where figures go; TensorBoard's writer is one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...


class Trainer:
    """Runs stages, saves every few minutes, logs figures and the share of the machine's matmul peak."""

    def __init__(
        self, networks: Networks, stages: list[Stage], out: Path, minutes: float, seed: int, writer: Writer | None = None,
        picture: Callable[[str, int], None] | None = None, save_every: float = 120.0,
    ) -> None:
        """``picture(stage, step)`` is called whenever the state is saved."""
        self.networks, self.stages, self.out, self.seed = networks, stages, out, seed
        self.writer, self.picture, self.save_every = writer, picture, save_every
        whole = sum(stage.share for stage in stages)
        self.budgets = [minutes * 60 * stage.share / whole for stage in stages]
        self.clock = Clock()
        self.peak = matmul_peak(networks.device)
        self._moments: dict[int, dict[str, torch.Tensor]] = {}

    def resume(self) -> None:
        """Go on from the state in the output folder."""
        self.clock, self._moments = load_state(self.out, self.networks)

    def run(self) -> bool:
        """Train to the end. Returns False where Ctrl-C ended it early; the state is saved either way."""
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
        with Progress(*columns) as progress:
            bar = progress.add_task("training", total=sum(self.budgets))
            for i in range(self.clock.stage, len(self.stages)):
                if not self._run_stage(i, progress, bar):
                    return False
        self.clock = Clock(stage=len(self.stages), done=True)
        save_state(self.out, self.networks, None, self.clock)
        return True

    def _run_stage(self, i: int, progress: Progress, bar: int) -> bool:
        stage, budget = self.stages[i], self.budgets[i]
        if self.clock.step == 0 and stage.start is not None:
            stage.start()
        optimizer = self._optimizer(stage)
        spent, step, saved = self.clock.seconds, self.clock.step, time.monotonic()
        flops = 0
        try:
            while spent < budget:
                began = time.monotonic()
                if not flops:
                    with FlopCounterMode(display=False) as counter:
                        logs = self._step(stage, optimizer, spent / budget, i, step)
                    flops = counter.get_total_flops()
                else:
                    logs = self._step(stage, optimizer, spent / budget, i, step)
                took = time.monotonic() - began
                spent, step = spent + took, step + 1
                self.clock = Clock(i, spent, step)
                self._log(stage.name, step, {**logs, "steps_per_s": 1 / took, "peak_share": flops / took / self.peak})
                share = "" if step < 2 else f" {flops / took / self.peak:.0%} of peak"
                figures = " ".join(f"{name} {value:.3f}" for name, value in logs.items())
                progress.update(bar, completed=sum(self.budgets[:i]) + spent, description=f"{stage.name} {step}: {figures}{share}")
                if time.monotonic() - saved > self.save_every:
                    self._save(stage, optimizer, step)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            self._save(stage, optimizer, step)
            return False
        self.clock = Clock(i + 1)
        self._moments = {}
        self._save(stage, None, step)
        return True

    def _step(self, stage: Stage, optimizer: torch.optim.Optimizer, progress: float, index: int, step: int) -> Logs:
        """One step. Its randomness depends on (seed, stage, step) alone, so a resumed training draws what it would have drawn."""
        rng = np.random.default_rng([self.seed, index, step])
        factor = rate_at(progress, step, stage.hold)
        for group, rate in zip(optimizer.param_groups, stage.rates, strict=True):
            group["lr"] = rate.peak * factor
        kind = self.networks.device.type
        with torch.autocast(kind, torch.bfloat16) if kind in ("cpu", "cuda") else nullcontext():
            loss, logs = stage.objective(rng, progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for rate in stage.rates for p in rate.parameters], 1.0)
        optimizer.step()
        return {"loss": loss.item(), **logs}

    def _optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        for parameter in self.networks.parameters():
            parameter.requires_grad_(False)
        for rate in stage.rates:
            for parameter in rate.parameters:
                parameter.requires_grad_(True)
        groups = [{"params": rate.parameters, "lr": rate.peak, "weight_decay": rate.decay} for rate in stage.rates]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-10)
        if self._moments:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self._moments})
        return optimizer

    def _log(self, stage: str, step: int, logs: Logs) -> None:
        if self.writer is not None and step % 10 == 0:
            for name, value in logs.items():
                self.writer.add_scalar(f"{stage}/{name}", value, step)

    def _save(self, stage: Stage, optimizer: torch.optim.Optimizer | None, step: int) -> None:
        save_state(self.out, self.networks, optimizer, self.clock)
        if self.picture is not None:
            self.picture(stage.name, step)
