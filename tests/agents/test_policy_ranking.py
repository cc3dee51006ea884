"""Ranking of policies: scores in the dream against scores in the real game."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.agents.toy_game import FEWEST, STONES
from tests.tiny_moving import moving_world
from worldsim.agents.dreamer.policy import LatentPolicy, PolicyMetadata, save_policy
from worldsim.agents.dreamer.policy_ranking import find_contenders
from worldsim.cli import main
from worldsim.engine.world import load
from worldsim.errors import CheckpointError, ConfigError
from worldsim.testing import tiny_world

METADATA = PolicyMetadata(world="stones", features=6 + 256, actions=3, hold=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_world(tmp_path_factory.mktemp("worlds"), "stones", spec=STONES)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A folder of two policies and a world."""
    made = tmp_path_factory.mktemp("policies")
    for seed, name in enumerate(("early", "round-0/late")):
        torch.manual_seed(seed)
        policy = LatentPolicy(METADATA)
        torch.nn.init.normal_(policy.actor.weight, std=3.0)
        save_policy(made / f"{name}.safetensors", policy, METADATA)
    moving_world(made, "stones", spec=STONES)
    return made


@pytest.mark.slow
def test_policies_are_played_in_both(
    folder: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["eval", str(folder), "--policies", str(policies), "still", "rhythm-8", "--device", "cpu"]
    line += [
        "--episodes",
        "3",
        "--episode",
        "30",
        "--games",
        "2",
        "--dreams",
        "4",
        "--json",
        "--temperature",
        "0.5",
    ]
    assert main(line) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in told["policies"]}
    assert list(rows) == ["early", "round-0/late", "still", "rhythm-8"]
    assert rows["still"]["real_mean"] == FEWEST
    assert rows["still"]["real_se"] == 0
    assert all(row["dream_mean"] >= 1 and 0 <= row["dream_capped"] <= 1 for row in rows.values())
    for measure in ("pearson", "spearman", "mmrv"):
        assert len(told[measure]["ci"]) == 2
    assert told["temperature"] == 0.5
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert main([*(word for word in line if word != "--json"), "--episodes", "1"]) == 0
    assert "mmrv" in capsys.readouterr().out.replace("\n", " ")


def test_contenders_by_name(folder: Path, policies: Path, tmp_path: Path) -> None:
    world, file = load(folder, "cpu"), str(policies / "early.safetensors")
    names = [one.name for one in find_contenders(["builtin", file, f"broken:{file}"], world)]
    assert names[0] == "random"
    assert names[-2:] == [file, f"broken:{file}"]
    assert {"still", "rhythm-24", "rhythm-80"} <= set(names)
    for given in (["random"], ["rhythm-9", "random"], [str(tmp_path), "random"]):
        with pytest.raises(ConfigError):
            find_contenders(given, world)
    with pytest.raises(CheckpointError):
        find_contenders([str(folder / "card.md"), "random"], world)
    with pytest.raises(ConfigError, match="without camera poses"):
        find_contenders(["builtin"], load(tiny_world(tmp_path, "posed"), "cpu"))


@pytest.mark.slow
def test_a_world_is_measured_on_the_states_of_a_policy(
    folder: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["eval", str(folder), "--quick", "--json", "--device", "cpu", "--trajectories", "2"]
    told = {}
    for name in ("early", "round-0/late"):
        file = str(policies / f"{name}.safetensors")
        assert main([*line, "--agent", file]) == 0
        told[name] = json.loads(capsys.readouterr().out)
        assert told[name]["agent"] == file
        assert {"next_psnr", "end_auroc", "end_recall"} <= set(told[name]["metrics"])
        assert "episode_length_ratio" not in told[name]["metrics"]
    first, second = told.values()
    assert first["metrics"]["copy_psnr"] != second["metrics"]["copy_psnr"], "each has states of its own"
    assert main([*line, "--agent", "dream"]) == 2
    assert "no policy is shipped" in capsys.readouterr().err


def test_a_ranking_has_no_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(folder), "--policies", "builtin", "--out", str(tmp_path)]) == 2
    assert "no page" in capsys.readouterr().err
