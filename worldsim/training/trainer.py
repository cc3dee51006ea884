"""A trainer for any objective: stages share a wall clock; training can stop and resume at any step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from worldsim.errors import CheckpointError, ConfigError
from worldsim.networks import Networks
from worldsim.training.parallel import SINGLE_PROCESS, Group
from worldsim.training.stage import Logs, Stage, lr_factor
from worldsim.training.state import OptimizerState, TrainProgress, load_state, save_state
from worldsim.training.throughput import Throughput
from worldsim.utils.mixed_precision import mixed_precision
from worldsim.utils.progress import ProgressReporter
from worldsim.utils.roofline import matmul_peak

Metrics = dict[str, float]
_LOG_EVERY = 0.2
"""Seconds between progress lines: a GPU must not be waited for after every step."""


class MetricWriter(Protocol):
    """A writer of metrics, e.g. TensorBoard's ``SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write one metric."""


class Trainer:
    """Run stages, save every few minutes, log metrics and the model FLOPs utilisation (``mfu``).

    Args:
        networks: the networks to train.
        stages: in order; their time fractions are normalised.
        out: folder of the state.
        minutes: wall clock that the stages share, saving and sample grids included.
        seed: seed of all random numbers.
        writer: writer of the metrics.
        on_checkpoint: called with the stage and the step whenever the state is saved; returns metrics to log.
        save_every: seconds between saves.
        group: the processes that train together; the first one writes and saves.
    """

    def __init__(
        self,
        networks: Networks,
        stages: list[Stage],
        out: Path,
        minutes: float,
        seed: int,
        writer: MetricWriter | None = None,
        on_checkpoint: Callable[[str, int], Logs] | None = None,
        save_every: float = 120.0,
        group: Group = SINGLE_PROCESS,
    ) -> None:
        self.networks, self.stages, self.out, self.seed = networks, stages, out, seed
        self.writer, self.on_checkpoint, self.save_every, self.group = (
            writer,
            on_checkpoint,
            save_every,
            group,
        )
        named = {id(stage.companions): stage.companions for stage in stages}
        self.companions = [companion for companion in named.values() if companion is not None]
        """Networks beside the world's, of all stages."""
        total = sum(stage.time_fraction for stage in stages)
        if total <= 0:
            raise ConfigError("stages must have a share of the minutes", [stage.name for stage in stages])
        self.budgets = [minutes * 60 * stage.time_fraction / total for stage in stages]
        """Seconds of each stage."""
        self.progress = self._progress_at(0)
        self.peak = matmul_peak(networks.device)
        """FLOP/s of the machine's matmuls."""
        self._optimizer: torch.optim.Optimizer | None = None
        self._checkpoint_metrics: Metrics = {}  # of the last checkpoint
        self._optimizer_state: OptimizerState = {}  # of a loaded state, until an optimizer is made

    def resume(self) -> None:
        """Go on from the state in the output folder.

        Raises:
            CheckpointError: there is none, or one of other networks or stages.
        """
        progress, optimizer_state = load_state(self.out, self.networks, self.companions)
        if progress.name not in ("", self._progress_at(progress.stage).name):
            rule = "a training must be resumed with the stages it began with"
            raise CheckpointError(rule, progress.name, "give the same --stages")
        self.progress, self._optimizer_state = progress, optimizer_state

    def run(self) -> bool:
        """Train to the end. Returns False where Ctrl-C ended it early; the state is saved either way."""
        with ProgressReporter("training", sum(self.budgets)) as reporter:
            reporter.begin(self._spent())
            try:
                while self.progress.stage < len(self.stages):
                    self._run_stage(self.stages[self.progress.stage], reporter)
            except KeyboardInterrupt:
                self._save()
                return False
        return True

    def _run_stage(self, stage: Stage, reporter: ProgressReporter) -> None:
        """Take steps until the stage's seconds are spent."""
        number, before = self.progress.stage, self.progress.seconds
        budget = self.budgets[number]
        if self.progress.step == 0 and budget > 0 and stage.on_start is not None:
            stage.on_start()
        for module in (self.networks, *self.companions):
            self.group.broadcast_weights(module)
        optimizer = self._optimizer = self._make_optimizer(stage)
        throughput = Throughput(self.peak)
        began = saved = reported = time.monotonic()
        while self.progress.seconds < budget:
            logs = throughput.run(lambda: self._step(stage, optimizer))
            now = time.monotonic()
            seconds = self.group.broadcast_seconds(before + now - began)
            self.progress = self._progress_at(number, seconds, self.progress.step + 1)
            if self.progress.step == 1 or now - reported > _LOG_EVERY:
                self._report(stage, _read(logs), throughput, reporter)
                reported = now
            if now - saved > self.save_every:
                self._save()
                self._on_checkpoint(stage)
                saved = now
            if stage.should_end is not None and (reason := stage.should_end()) is not None:
                if self.group.is_first:
                    print(f"{stage.name} ended early: {reason}", file=sys.stderr)
                break
        step = self.progress.step
        self.progress, self._optimizer = self._progress_at(number + 1), None
        self._save()
        self._on_checkpoint(stage, step)

    def _step(self, stage: Stage, optimizer: torch.optim.Optimizer) -> Logs:
        """Take one step. It is seeded by (seed, stage, step, rank): a resumed run draws the same numbers."""
        at, device = self.progress, self.networks.device.type
        fraction = min(1.0, at.seconds / max(self.budgets[at.stage], 1e-9))
        factor = lr_factor(fraction, at.step, stage.plateau)
        for optimizer_group, group in zip(optimizer.param_groups, stage.param_groups, strict=True):
            optimizer_group["lr"] = group.lr * factor
        rng = np.random.default_rng([self.seed, at.stage, at.step, *self.group.seed_suffix])
        with mixed_precision(device):
            loss, logs = stage.objective(rng, fraction)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        weights, loss = [p for group in stage.param_groups for p in group.parameters], loss.detach()
        self.group.average(loss, weights)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return {"loss": loss, **logs}

    def _make_optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        """Return AdamW over the stage's weights, which alone get gradients; with its state when resumed."""
        for module in (self.networks, *self.companions):
            module.requires_grad_(False)
        for group in stage.param_groups:
            for parameter in group.parameters:
                parameter.requires_grad_(True)
        groups = [
            {"params": group.parameters, "lr": group.lr, "weight_decay": group.weight_decay}
            for group in stage.param_groups
        ]
        fused = self.networks.device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, betas=stage.betas, eps=1e-8, fused=fused)
        if self._optimizer_state:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self._optimizer_state})
            self._optimizer_state = {}
        return optimizer

    def _progress_at(self, number: int, seconds: float = 0.0, step: int = 0) -> TrainProgress:
        done = number >= len(self.stages)
        name = "" if done else self.stages[number].name
        return TrainProgress(stage=number, seconds=seconds, step=step, done=done, name=name)

    def _spent(self) -> float:
        return sum(self.budgets[: self.progress.stage]) + self.progress.seconds

    def _report(
        self, stage: Stage, logs: Metrics, throughput: Throughput, reporter: ProgressReporter
    ) -> None:
        if not self.group.is_first:
            return
        step, speed = self.progress.step, _read(throughput.read())
        metrics = " ".join(f"{name} {value:.3f}" for name, value in (logs | self._checkpoint_metrics).items())
        speeds = f", {speed['steps_per_s']:.1f} steps/s, {speed['mfu']:.0%} of peak"
        reporter.update(self._spent(), f"{stage.name} {step}: {metrics}{speeds}")
        self._write(stage, logs | speed, step)

    def _write(self, stage: Stage, logs: Metrics, step: int) -> None:
        if self.writer is not None:
            for name, value in logs.items():
                self.writer.add_scalar(f"{stage.name}/{name}", value, step)

    def _save(self) -> None:
        if self._optimizer_state or not self.group.is_first:
            return  # interrupted before the first step: the state on disk has the optimizer's, this one not
        save_state(self.out, self.networks, self._optimizer, self.progress, self.companions)

    def _on_checkpoint(self, stage: Stage, step: int | None = None) -> None:
        if self.on_checkpoint is not None and self.group.is_first:
            step = self.progress.step if step is None else step
            self._checkpoint_metrics = _read(self.on_checkpoint(stage.name, step))
            self._write(stage, self._checkpoint_metrics, step)


def _read(logs: Logs) -> Metrics:
    """Return ``logs`` as numbers; waits for the device."""
    return {name: float(value) for name, value in logs.items()}
