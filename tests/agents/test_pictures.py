"""Videos, contact sheets and their captions."""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
import pytest

from worldsim.agents.human.captions import crisp, lettering, sheet, side_by_side, text_width
from worldsim.agents.human.colours import BACKGROUND, DREAM, REAL
from worldsim.agents.human.recordings import Recordings, free_name
from worldsim.agents.human.video import VideoWriter
from worldsim.errors import ConfigError, DependencyError, install

FRAME = np.random.default_rng(0).integers(0, 255, (15, 20, 3), dtype=np.uint8)


def frames_in(path: Path) -> tuple[int, float, tuple[int, int]]:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        count = sum(1 for _ in file.decode(stream))
        return count, float(stream.average_rate), (stream.height, stream.width)


def test_a_pixel_becomes_a_square() -> None:
    large = crisp(FRAME, 3)
    assert large.shape == (45, 60, 3)
    np.testing.assert_array_equal(large[1::3, 2::3], FRAME)


def test_frames_stand_side_by_side_under_their_titles() -> None:
    picture = side_by_side([FRAME, FRAME], [("Dream", DREAM), ("Engine", REAL)], 3)
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    np.testing.assert_array_equal(picture[22:67, :60], crisp(FRAME, 3))
    np.testing.assert_array_equal(picture[22:67, 68:128], crisp(FRAME, 3))
    assert (picture[:22] != BACKGROUND).any()


def test_a_sheet_has_bands_of_columns_with_the_dream_above_the_engine() -> None:
    other = 255 - FRAME
    columns = [(f"frame {i}", [FRAME, other]) for i in range(5)]
    picture = sheet(columns, [("dream", DREAM), ("engine", REAL)], across=3, scale=2)
    assert picture.shape[1] == 64 + 3 * 44 + 4
    np.testing.assert_array_equal(picture[22:52, 64:104], crisp(FRAME, 2))
    np.testing.assert_array_equal(picture[56:86, 64:104], crisp(other, 2))


def test_letters_are_as_wide_as_said() -> None:
    assert lettering("K = 2", 14).shape[1] == text_width("K = 2", 14)
    assert lettering("", 14).shape[1] == 1
    assert lettering("W", 20).max() > 200


def test_a_video_holds_every_frame_at_the_worlds_pace(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 17.5) as writer:
        assert writer.size is None
        for _ in range(7):
            writer.write(np.zeros((32, 48, 3), np.uint8))
    assert frames_in(path) == (7, 17.5, (32, 48))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        VideoWriter(tmp_path / "nowhere" / "a.mp4", 17.5)


def test_a_video_without_frames_is_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 17.5):
        pass
    assert not (tmp_path / "a.mp4").exists()


def test_without_pyav_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DependencyError, match=re.escape(install("play"))):
        VideoWriter(tmp_path / "a.mp4", 17.5)


def test_a_take_goes_on_in_a_new_file_where_the_picture_changes_its_size(tmp_path: Path) -> None:
    recordings = Recordings(str(tmp_path / "walk"), 17.5)
    assert recordings.stop() is None
    first = recordings.start()
    for width in (48, 48, 96, 96, 96):
        recordings.add(np.zeros((32, width, 3), np.uint8))
    assert recordings.frames == 5
    second = recordings.stop()
    assert second is not None
    assert [frames_in(path)[0] for path in (first, second)] == [2, 3]
    assert recordings.path is None


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    prefix = str(tmp_path / "walk")
    (tmp_path / "walk-1.png").touch()
    assert free_name(prefix, ".png") == tmp_path / "walk-2.png"
