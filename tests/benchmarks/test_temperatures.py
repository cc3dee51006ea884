"""The table of temperatures: every cell learns, is scored, and is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import temperatures
from tests.agents.toy_game import STONES
from tests.tiny_moving import moving_world
from worldsim.agents.dreamer.policy import load_policy
from worldsim.agents.learner import ppo_cleanrl


@pytest.mark.slow
def test_an_interrupted_table_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, out = moving_world(tmp_path, "stones", spec=STONES), tmp_path / "table"
    line = [str(world), "--temperatures", "0.5,1.3", "--hold", "1,4", "--seeds", "1", "--minutes", "0.0001"]
    line += ["--out", str(out), "--dreams", "3", "--starts", "2", "--episode", "9", "--episodes", "3"]
    line += ["--games", "2", "--hidden", "8", "--device", "cpu", "--json"]
    improve, calls = ppo_cleanrl.improve, list[int]()

    def interrupted(*args: object) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return improve(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(ppo_cleanrl, "improve", interrupted)
    assert temperatures.main(line) == 130
    first = (out / "t0.5-hold1-seed0.json").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(ppo_cleanrl, "improve", improve)
    assert temperatures.main(line) == 0
    table = json.loads(capsys.readouterr().out)
    assert [(row["hold"], row["temperature"]) for row in table] == [(1, 0.5), (1, 1.3), (4, 0.5), (4, 1.3)]
    assert all(1 <= row[f"{name}_mean"] <= 9 for row in table for name in ("dream", "dream_at_1", "real"))
    assert (out / "t0.5-hold1-seed0.json").read_bytes() == first
    metadata = load_policy(out / "t1.3-hold4-seed0.safetensors").metadata
    assert (metadata.temperature, metadata.hold, metadata.hidden) == (1.3, 4, 8)
    assert temperatures.main(line[:-1]) == 0
    assert "| 1.3 | 4 | 1 |" in capsys.readouterr().out
