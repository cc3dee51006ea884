"""Cells of the tables: which world is trained in which way, at equal minutes within a table."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from worldsim import config as configs
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.training.distillation.recipe import Companions, UnitsRecipe
from worldsim.training.stage import Stage
from worldsim.training.starts import choose_starts
from worldsim.training.state import STATE, load_state
from worldsim.training.trainer import Trainer
from worldsim.units.protocol import divisors

__all__ = ["TABLES", "Cell", "Minutes", "Workshop", "cells_of"]

TABLES = ("units", "cubes", "scorers", "causal data")
_FRAMES = 4
"""Frames of units of several."""
_CUBES = ((_FRAMES, (4, 4, 4)), (_FRAMES, (2, 2, 2)), (_FRAMES, (1, 2, 2)), (1, (1, 2, 2)), (1, (1, 3, 4)))
"""Frames and splits of the cubes; splits that do not divide a grid are replaced by the nearest that do."""


@dataclass(frozen=True)
class Minutes:
    """Wall clock of each part of a training."""

    tokenizer: float
    base: float
    causal: float
    distillation: float


@dataclass(frozen=True)
class Cell:
    """A row of a table."""

    table: str
    name: str
    changes: dict[str, str] = field(default_factory=dict)
    """Fields of the recipe that differ from the default."""
    distilled: bool = True
    """Stage 2 follows stage 1; else stage 1 lasts for the minutes of both."""
    extra: bool = False
    """Stage 1 also lasts for the base's minutes: it begins without one."""

    @property
    def slug(self) -> str:
        """Name of the cell's folder: cells that are trained alike share it."""
        told = "-".join(f"{key}-{value}" for key, value in sorted(self.changes.items()))
        ends = "dmd" if self.distilled else "alone"
        return re.sub(r"[^\w.-]+", "-", f"{told or 'default'}-{ends}")


def cells_of(grid: tuple[int, int]) -> tuple[Cell, ...]:
    """The rows of all tables, for frames of ``grid`` tokens (rows and columns).

    Symmetric scorers and recorded data are the recipe's defaults: their rows are the frame's of ``units``.
    """
    fitted = [_cube(frames, splits, grid) for frames, splits in _CUBES]
    cubes = tuple(dict.fromkeys(fitted))  # splits of a small grid may be the same
    units = ("frame", "key-detail:4/2", "scales:3", fitted[1])
    return (
        *(Cell("units", unit, {"unit": unit}) for unit in units),
        *(Cell("cubes", unit, {"unit": unit}) for unit in cubes),
        Cell("scorers", "none", {"unit": "frame"}, distilled=False),
        *(
            Cell("scorers", scorer, {"unit": "frame", "scorer": scorer})
            for scorer in ("full", "forward", "backward")
        ),
        Cell("scorers", "symmetric", {"unit": "frame"}),
        Cell("scorers", "from scratch", {"unit": "frame", "base_fraction": "0"}, distilled=False, extra=True),
        Cell("causal data", "data", {"unit": "frame"}),
        *(Cell("causal data", data, {"unit": "frame", "causal_data": data}) for data in ("base", "both")),
    )


def _cube(frames: int, splits: tuple[int, int, int], grid: tuple[int, int]) -> str:
    """The cube unit of ``frames``, with the splits nearest to ``splits`` that divide frames and grid."""
    pairs = zip((frames, *grid), splits, strict=True)
    fitting = [min(divisors(size), key=lambda split: (abs(split - wanted), split)) for size, wanted in pairs]
    return f"cube:{frames}/{'x'.join(map(str, fitting))}"


class Workshop:
    """Trains cells under ``out``; what was trained is not trained again.

    Args:
        recipe: sizes of all cells.
        clips: recorded frames to learn from.
        held_out: recorded frames that starts are taken from.
        out: folder of the states and worlds.
        minutes: of each part.
        device: where they are trained.
    """

    def __init__(
        self,
        recipe: UnitsRecipe,
        clips: ClipStore,
        held_out: ClipStore,
        out: Path,
        minutes: Minutes,
        device: torch.device,
    ) -> None:
        # With a base of its own or without, every cell finds its stages.
        self.recipe = replace(recipe, base_fraction=minutes.base)
        self.clips, self.out, self.minutes, self.device = clips, out, minutes, device
        self.starts = choose_starts(held_out, count=8)

    def shared(self, seed: int) -> bool:
        """Train tokenizer and base, which all cells begin with. False where Ctrl-C ended it."""
        minutes = self.minutes
        recipe = replace(
            self.recipe,
            unit=f"cube:{self.recipe.chunk}/1x1x1",
            tokenizer_fraction=minutes.tokenizer,
        )
        networks, stages = self._begin(recipe, seed)
        return self._train(networks, stages[:2], "shared", minutes.tokenizer + minutes.base, seed) is not None

    def worlds(self, cell: Cell, seed: int, distil: bool = True) -> dict[str, Path] | None:
        """Worlds of a cell by stage, "1" and, where it is distilled, "2"; None where Ctrl-C came first."""
        minutes, recipe = self.minutes, configs.override(self.recipe, cell.changes)
        networks, stages = self._begin(recipe, seed)
        by_name = {stage.name: stage for stage in stages}
        self._take_shared(networks, stages[0].companions)
        long = minutes.causal + (0 if cell.distilled else minutes.distillation) + cell.extra * minutes.base
        folder = f"{self._stage_1(cell)}-seed{seed}"
        assert isinstance(stages[0].companions, Companions)
        # Scorers are no part of stage 1, which cells of several scorers share.
        causal = replace(by_name["causal"], companions=stages[0].companions.base)
        first = self._train(networks, [causal], f"{folder}/1", long, seed)
        if first is None or not cell.distilled or not distil:
            return None if first is None else {"1": first}
        second = self._train(
            networks, [by_name["distillation"]], f"{cell.slug}-seed{seed}/2", minutes.distillation, seed
        )
        return None if second is None else {"1": first, "2": second}

    def _stage_1(self, cell: Cell) -> str:
        """Folder of a cell's stage 1: those that differ in the scorer alone share it."""
        changes = {key: value for key, value in cell.changes.items() if key != "scorer"}
        return replace(cell, changes=changes).slug

    def _begin(self, recipe: UnitsRecipe, seed: int) -> tuple[Networks, list[Stage]]:
        torch.manual_seed(seed)
        networks = Networks(recipe.plan(self.clips.spec, None), self.clips.spec).to(self.device).train()
        return networks, recipe.stages(networks, self.clips, warm=False)

    def _take_shared(self, networks: Networks, companions: object) -> None:
        """Load the tokenizer and the base that ``shared`` trained."""
        assert isinstance(companions, Companions)
        unit = f"cube:{self.recipe.chunk}/1x1x1"
        source, stages = self._begin(replace(self.recipe, unit=unit), 0)
        trained = stages[0].companions
        assert isinstance(trained, Companions)
        load_state(self.out / "shared", source, [trained])
        networks.tokenizer.load_state_dict(source.tokenizer.state_dict())  # type: ignore[attr-defined]
        networks.conditions.load_state_dict(source.conditions.state_dict())
        companions.base.load_state_dict(trained.base.state_dict())

    def _train(
        self, networks: Networks, stages: list[Stage], name: str, minutes: float, seed: int
    ) -> Path | None:
        """Train in the folder ``name``, and write the world beside the state."""
        folder = self.out / name
        if (folder / "world").exists():
            companions = stages[0].companions  # of all of them
            load_state(folder, networks, [companions] if companions is not None else [])
            return folder / "world"
        folder.mkdir(parents=True, exist_ok=True)
        taken: dict[str, int] = {}

        def count(stage: str, step: int) -> dict[str, float]:
            taken[stage] = step
            return {}

        trainer = Trainer(networks, stages, folder, minutes, seed, on_checkpoint=count)
        if (folder / STATE).exists():
            trainer.resume()
        if not trainer.run():
            return None
        ended = {stage.name: stage.should_end() if stage.should_end else None for stage in stages}
        report: dict[str, object] = {"steps": taken, "minutes": minutes, "ended early": ended}
        (folder / "steps.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        config = WorldConfig(name="world", source=self.clips.spec, networks=networks.config)
        save_world(folder / "world", config, networks, self.starts, f"# {name}\n")
        return folder / "world"
