"""Windows that may run past an episode's end, and how often they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.rooms import write_walks
from worldsim.data.clips import ClipStore
from worldsim.training.sequences import Sequences


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    folder: Path = write_walks(tmp_path_factory.mktemp("walks"), {1: 30, 2: 50, 3: 12})
    return Sequences(ClipStore(folder), torch.device("cpu"))


def test_windows_run_past_an_end_and_are_masked_there(sequences: Sequences) -> None:
    windows = sequences.draw(200, 20, np.random.default_rng(0))
    assert windows.arrivals.shape == windows.valid.shape == (200, 20)
    steps = windows.arrivals.diff(dim=1)
    assert (steps[windows.valid[:, 1:]] == 1).all()
    assert (steps[~windows.valid[:, 1:]] == 0).all()
    assert windows.valid[:, :2].all()
    places = sequences.ends[windows.arrivals] & windows.valid
    assert len(torch.unique(places.nonzero()[:, 1])) > 10  # ends stand anywhere in a window


def test_windows_around_ends_are_weighed_down_by_how_often_they_are_drawn(sequences: Sequences) -> None:
    rng = np.random.default_rng(0)
    shares = []
    for ends in (0.0, 0.6):
        windows = sequences.draw(20_000, 10, rng, starts=0.0, ends=ends)
        holds = (sequences.ends[windows.arrivals] & windows.valid).any(1).float()
        shares.append((windows.importance * holds).sum() / windows.importance.sum())
        if ends:
            assert holds.mean() > 0.6
    assert shares[0] == pytest.approx(float(shares[1]), rel=0.1)


def test_a_share_of_windows_begins_where_an_episode_does(sequences: Sequences) -> None:
    windows = sequences.draw(400, 5, np.random.default_rng(1), starts=0.5)
    first = torch.from_numpy(np.unique(sequences._first))
    assert 0.4 < torch.isin(windows.arrivals[:, 0], first).float().mean() < 0.7


def test_pairs_are_neighbours_within_an_episode(sequences: Sequences) -> None:
    now, before = sequences.pairs(500, np.random.default_rng(2))
    assert set((now - before).tolist()) <= {0, 1}  # 0: an end sees the last frame again
    pixels = sequences.pixels(now[:4])
    assert pixels.shape == (4, 3, 60, 80)
    assert pixels.abs().max() <= 1
