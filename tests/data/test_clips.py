"""Clips: the time shift, windows within episodes, splits, the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.collectors import SPEC, make_episode
from tests.data.test_dataset import write
from worldsim.data.clips import ClipStore, shift
from worldsim.data.dataset import Dataset
from worldsim.data.episodes import EpisodeArrays
from worldsim.errors import DataError
from worldsim.pixels import resize_area

LENGTHS = (12, 3, 9, 7)


@pytest.fixture
def episodes() -> list[EpisodeArrays]:
    ended = (True, False, False, True)
    return [make_episode(i + 1, n, ended=e) for i, (n, e) in enumerate(zip(LENGTHS, ended, strict=True))]


@pytest.fixture
def root(tmp_path: Path, episodes: list[EpisodeArrays]) -> Path:
    write(tmp_path, [*episodes, make_episode(20, 6, ended=False)])
    return tmp_path


def test_shift_moves_what_followed_a_frame_to_the_next_one() -> None:
    controls = np.arange(8, dtype=np.float32).reshape(4, 2) + 1
    rewards = np.array([0.1, 0.2, 0.3, 1.0], dtype=np.float32)
    cut = shift(controls, rewards, np.zeros(4, dtype=bool))
    np.testing.assert_array_equal(cut.frame, [0, 1, 2, 3])
    np.testing.assert_array_equal(cut.controls, [[0, 0], [1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(cut.rewards, np.float32([0, 0.1, 0.2, 0.3]))
    assert not cut.ends.any()


def test_an_end_arrives_at_a_repeat_of_the_last_frame() -> None:
    controls = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
    rewards = np.array([0.1, 0.2, 1.0], dtype=np.float32)
    ended = shift(controls, rewards, np.array([False, False, True]))
    np.testing.assert_array_equal(ended.frame, [0, 1, 2, 2])
    np.testing.assert_array_equal(ended.controls, [[0, 0], [1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(ended.rewards, np.float32([0, 0.1, 0.2, 1.0]))
    np.testing.assert_array_equal(ended.ends, [False, False, False, True])


def test_clips_are_windows_of_one_episode(root: Path, episodes: list[EpisodeArrays]) -> None:
    store = ClipStore(root)
    clip = store.sample(64, 5, np.random.default_rng(0))
    assert clip.frames.shape == (64, 5, *SPEC.size, 3)
    for b in range(64):
        episode, t = locate(clip.frames[b, 0], episodes)
        rows = np.minimum(np.arange(t, t + 5), len(episode) - 1)
        np.testing.assert_array_equal(clip.frames[b], episode.frames[rows])
        assert clip.poses is not None
        assert episode.poses is not None
        np.testing.assert_array_equal(clip.poses[b], episode.poses[rows])
        np.testing.assert_array_equal(clip.controls[b, 1:], episode.controls[t : t + 4])
        np.testing.assert_array_equal(clip.rewards[b, 1:], episode.rewards[t : t + 4])
        np.testing.assert_array_equal(clip.ends[b, 1:], episode.terminated[t : t + 4])
    assert not clip.controls[:, 0].any()


def locate(frame: np.ndarray, episodes: list[EpisodeArrays]) -> tuple[EpisodeArrays, int]:
    for episode in episodes:
        for t in range(len(episode)):
            if np.array_equal(frame, episode.frames[t]):
                return episode, t
    raise AssertionError("the frame is in no episode of the split")


def test_every_window_is_drawn(root: Path) -> None:
    store = ClipStore(root)
    clip = store.sample(2000, 6, np.random.default_rng(0))
    # 12 frames and their end give 8 windows of 6, 9 frames give 4, 7 and their end give 3, 3 frames none.
    assert len(np.unique(clip.frames[:, 0].reshape(2000, -1), axis=0)) == 8 + 4 + 3


def test_ends_can_be_drawn_more_often(root: Path) -> None:
    store = ClipStore(root)
    assert store.sample(50, 5, np.random.default_rng(0), ends=1.0).ends[:, -1].all()


def test_sampling_follows_its_generator(root: Path) -> None:
    store = ClipStore(root)
    a, b = (store.sample(4, 3, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(a.frames, b.frames)


def test_tracks_alone_come_without_frames(root: Path) -> None:
    store = ClipStore(root)
    tracks = store.sample(4, 3, np.random.default_rng(7), frames=False)
    full = store.sample(4, 3, np.random.default_rng(7))
    assert tracks.frames.shape == (4, 3, 0, 0, 3)
    assert tracks.poses is not None
    assert full.poses is not None
    np.testing.assert_array_equal(tracks.controls, full.controls)
    np.testing.assert_array_equal(tracks.poses, full.poses)
    assert store.poses is not None
    assert len(store.poses) == len(store.frames)


def test_window_is_where_it_is_asked_for(root: Path, episodes: list[EpisodeArrays]) -> None:
    clip = ClipStore(root).window(2, 3, 4)
    np.testing.assert_array_equal(clip.frames[0], episodes[2].frames[3:7])
    np.testing.assert_array_equal(clip.controls[0, 1:], episodes[2].controls[3:6])
    with pytest.raises(DataError, match="window"):
        ClipStore(root).window(2, 6, 4)


def test_controls_until_a_frame_are_those_that_led_there(root: Path, episodes: list[EpisodeArrays]) -> None:
    np.testing.assert_array_equal(ClipStore(root).controls_until(2, 5), episodes[2].controls[:5])


def test_stores_are_joined(root: Path) -> None:
    """A window of an episode is the same in a store of several datasets."""
    one = ClipStore(root)
    joined = ClipStore.joined([one, ClipStore(root, split="held_out"), one])
    count, held = len(one.episodes), len(ClipStore(root, split="held_out").episodes)
    assert len(joined.episodes) == 2 * count + held
    assert len(joined) == 2 * len(one) + len(ClipStore(root, split="held_out"))
    for number in range(count):
        for found in (joined.window(number, 1, 2), joined.window(count + held + number, 1, 2)):
            wanted = one.window(number, 1, 2)
            for name in ("frames", "controls", "poses", "rewards", "ends"):
                np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert joined.poses is not None
    starts = np.flatnonzero(joined.tracks.first == np.arange(len(joined.tracks.first)))
    assert len(starts) == len(joined.episodes)


def test_stores_of_other_frames_cannot_be_joined(root: Path) -> None:
    with pytest.raises(DataError, match="same size"):
        ClipStore.joined([ClipStore(root), ClipStore(root, (6, 8))])


def test_splits_do_not_mix(root: Path) -> None:
    assert [e.seed for e in ClipStore(root, split="held_out").episodes] == [20]
    assert [e.seed for e in ClipStore(root).episodes] == [1, 2, 3, 4]


def test_frames_are_shrunk_by_area_and_cached(root: Path, episodes: list[EpisodeArrays]) -> None:
    store = ClipStore(root, (6, 8))
    assert store.spec.size == (6, 8)
    np.testing.assert_array_equal(store.frames[: LENGTHS[0]], resize_area(episodes[0].frames, (6, 8)))
    cached = list((root / "cache").glob("*.npy*"))
    assert [path.suffix for path in cached] == [".npy"]
    before = cached[0].stat().st_mtime_ns
    np.testing.assert_array_equal(ClipStore(root, (6, 8)).frames, store.frames)
    assert cached[0].stat().st_mtime_ns == before


def test_a_longer_recording_makes_the_cache_anew(root: Path) -> None:
    frames = len(ClipStore(root))
    write(root, [make_episode(9, 8)], first=len(Dataset(root)))
    assert len(ClipStore(root)) == frames + 8
    assert len(list((root / "cache").glob("*.npy*"))) == 1


def test_what_cannot_be_sampled_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="as long as the clip"):
        ClipStore(root).sample(1, 50, np.random.default_rng(0))
    with pytest.raises(DataError, match="divide"):
        ClipStore(root, (5, 5))
    write(tmp_path / "train_only", [make_episode(1)])
    with pytest.raises(DataError, match="episodes"):
        ClipStore(tmp_path / "train_only", split="held_out")
