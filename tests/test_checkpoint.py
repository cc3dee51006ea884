"""Worlds on disk: what is saved is what is loaded, and damage does not pass."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import lively_world
from worldsim import checkpoint
from worldsim.checkpoint import FORMAT, find_world, load_world, save_world, write_card
from worldsim.context import Context
from worldsim.errors import CheckpointError, DataError
from worldsim.testing import tiny_world

FILES = ("config.json", "weights.safetensors", "starts.json", "starts/001.png", "card.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lively_world(tmp_path / "worlds", "tiny")


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def resum(folder: Path) -> None:
    """Make the sums right again, as whoever edits a world by hand would."""
    write_card(folder, (folder / "card.md").read_text())


@pytest.mark.parametrize("tokenizer", ["history", "frame"])
@pytest.mark.parametrize("poses", [True, False])
def test_round_trip(tmp_path: Path, tokenizer: str, poses: bool) -> None:
    stored = load_world(lively_world(tmp_path, tokenizer=tokenizer, poses=poses))
    again_folder = tmp_path / "again"
    save_world(again_folder, stored.config, stored.networks, stored.starts, stored.card)
    again = load_world(again_folder)
    assert again.config == stored.config
    assert (again.card, again.weights_sha256) == (stored.card, stored.weights_sha256)
    assert again.config.source.has_pose == poses
    weights, same = stored.networks.state_dict(), again.networks.state_dict()
    assert list(weights) == list(same)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    for a, b in zip(stored.starts, again.starts, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        for name in ("controls", "poses", "action_prefix"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            if x is not None:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)
        assert a.seed == b.seed


def test_weights_are_half_precision_on_disk_and_whole_in_memory(folder: Path) -> None:
    stored = load_world(folder)
    assert all(w.dtype == torch.float32 for w in stored.networks.parameters())
    assert (folder / "weights.safetensors").stat().st_size < 2.5 * stored.networks.parameter_count() + 20_000


def test_nothing_but_the_world_is_left_behind(folder: Path) -> None:
    stored = load_world(folder)
    save_world(folder, stored.config, stored.networks, stored.starts[:1], "# newer\n")
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    again = load_world(folder)
    assert (len(again.starts), again.card) == (1, "# newer\n")
    assert not (folder / "starts/001.png").exists()


def test_an_old_world_outlives_a_failed_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = load_world(folder)

    def fail(*args: object) -> bytes:
        raise OSError("the disk is full")

    monkeypatch.setattr(checkpoint, "save_tensors", fail)
    with pytest.raises(OSError, match="full"):
        save_world(folder, stored.config, stored.networks, (), "")
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert load_world(folder).weights_sha256 == stored.weights_sha256


@pytest.mark.parametrize("renames", [1, 2])
def test_an_old_world_outlives_ctrl_c_while_it_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    stored, rename, done = load_world(folder), Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        done.append(target)
        if len(done) == renames:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_world(folder, stored.config, stored.networks, stored.starts, "# new")
    assert load_world(folder).card == stored.card
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    damage(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        load_world(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_world(folder)


def test_sums_that_were_cut_or_spoilt_are_noticed(folder: Path) -> None:
    sums = folder / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    for text in ("", "".join(lines[:1]), "".join(lines) + "no sum at all\n", "".join(lines)[:-5]):
        sums.write_text(text)
        with pytest.raises(CheckpointError, match=r"is damaged|is missing"):
            load_world(folder)
    sums.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError):
        load_world(folder)
    sums.unlink()
    with pytest.raises(CheckpointError, match="must hold SHA256SUMS"):
        load_world(folder)


@pytest.mark.parametrize(("step", "remedy"), [(1, "newer worldsim"), (-1, "train the world again")])
def test_another_format_says_so(folder: Path, step: int, remedy: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + step, "smell": "damp"}))
    resum(folder)
    with pytest.raises(CheckpointError, match=remedy):
        load_world(folder)


def test_files_that_do_not_belong_together(folder: Path, tmp_path: Path) -> None:
    other = tiny_world(tmp_path, "other", tokenizer="frame")
    for name, content in (
        ("weights.safetensors", (other / "weights.safetensors").read_bytes()),
        ("starts.json", b'[{"length": 2}]'),
        ("starts.json", b'"none"'),
        ("config.json", b"{}"),
        ("config.json", b"{"),
        ("starts/000.png", b"no picture"),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        resum(folder)
        with pytest.raises(CheckpointError, match="belong together"):
            load_world(folder)
        (folder / name).write_bytes(before)
    resum(folder)
    load_world(folder)


def test_a_new_card_leaves_the_world_whole(folder: Path) -> None:
    write_card(folder, "# better\n")
    assert load_world(folder).card == "# better\n"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped worlds, and a working directory beside it."""
    shelf, here = tmp_path / "shipped", tmp_path / "here"
    tiny_world(shelf, "doom-maze")
    here.mkdir()
    monkeypatch.setattr(checkpoint, "_shipped_folder", lambda: shelf)
    monkeypatch.chdir(here)
    return shelf


def test_a_world_is_found_by_name_or_folder(shelf: Path) -> None:
    assert find_world("doom-maze") == shelf / "doom-maze"
    assert find_world(shelf / "doom-maze") == shelf / "doom-maze"
    assert find_world(str(shelf)) == shelf


def test_an_unknown_name_suggests_the_nearest(shelf: Path) -> None:
    with pytest.raises(CheckpointError, match="did you mean 'doom-maze'") as caught:
        find_world("dom-maze")
    assert str(caught.value).count("did you mean") == 1
    with pytest.raises(CheckpointError, match="choose from doom-maze"):
        find_world("zzz")


def test_without_shipped_worlds_the_error_says_so(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_shipped_folder", lambda: shelf / "nowhere")
    with pytest.raises(CheckpointError, match="there are none"):
        find_world("doom-maze")


def test_data_that_bears_a_world_s_name_does_not_hide_it(shelf: Path) -> None:
    Path("doom-maze/meta").mkdir(parents=True)
    assert find_world("doom-maze") == shelf / "doom-maze"
    tiny_world(Path(), "doom-maze")
    assert find_world("doom-maze") == Path("doom-maze")


CONTEXT = Context(
    np.zeros((2, 6, 8, 3), np.uint8), np.zeros((2, 7), np.float32), np.tile(np.eye(4), (2, 1, 1))
)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"frames": np.zeros((2, 6, 8, 3), np.float32)}, "uint8"),
        ({"frames": np.zeros((6, 8, 3), np.uint8)}, "1 frames needs controls"),
        ({"frames": np.zeros((0, 6, 8, 3), np.uint8)}, "uint8"),
        ({"controls": np.zeros((3, 7), np.float32)}, "2 frames needs controls"),
        ({"controls": np.zeros(7, np.float32)}, "2 frames needs controls"),
        ({"controls": [{"forward"}]}, "2 frames needs as many controls"),
        ({"controls": "forward"}, "2 frames needs as many controls"),
        ({"controls": {"forward": True}}, "2 frames needs as many controls"),
        ({"frames": [np.zeros((6, 8, 3), np.uint8), np.zeros((6, 7, 3), np.uint8)]}, "all of one shape"),
        ({"frames": ["a", "b"]}, "must be numbers"),
        ({"poses": "here"}, "must be numbers"),
        ({"controls": np.full((2, 7), np.nan)}, "finite"),
        ({"poses": np.eye(4)}, "2 frames needs poses"),
    ],
)
def test_a_context_whose_parts_do_not_fit(wrong: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(DataError, match=words):
        dataclasses.replace(CONTEXT, **wrong)


def test_the_newest_frames_of_a_context() -> None:
    rng = np.random.default_rng(0)
    frames, controls = rng.integers(0, 256, (5, 6, 8, 3), dtype=np.uint8), np.ones((5, 7), np.float32)
    context = Context(frames, controls, seed=3, action_prefix=controls)
    short = context.newest(2)
    np.testing.assert_array_equal(short.frames, frames[3:])
    assert (len(short.controls), short.poses, short.seed, len(short.action_prefix)) == (2, None, 3, 5)
    assert len(context.newest(9).frames) == 5
