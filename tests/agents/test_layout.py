"""Whatever the window's size, everything has its place in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worldsim.agents.human.layout import Rect, arrange, interface_scale, window_size

windows = st.tuples(st.integers(480, 4000), st.integers(360, 2400))
frames = st.sampled_from([(60, 80), (120, 160), (96, 96), (256, 144)])


def overlap(a: Rect, b: Rect) -> bool:
    return a.x < b.x + b.w and b.x < a.x + a.w and a.y < b.y + b.h and b.y < a.y + a.h


@given(windows, frames, st.integers(1, 3), st.booleans(), st.booleans())
def test_nothing_overlaps_or_leaves_the_window(
    window: tuple[int, int], frame: tuple[int, int], count: int, panel: bool, whole: bool
) -> None:
    layout = arrange(window, frame, count, panel, whole)
    assert len(layout.pictures) == count
    assert (layout.panel is not None) == panel
    rects = [*layout.pictures, *([layout.panel] if layout.panel else [])]
    for i, rect in enumerate(rects):
        assert rect.x >= 0
        assert rect.y >= 0
        assert rect.x + rect.w <= window[0]
        assert rect.y + rect.h <= layout.footer.y + 1
        assert not any(overlap(rect, other) for other in rects[:i])
    assert len({(rect.w, rect.h) for rect in layout.pictures}) == 1


@given(windows, frames, st.integers(1, 3))
def test_pixels_are_squares_of_whole_size_where_there_is_room(
    window: tuple[int, int], frame: tuple[int, int], count: int
) -> None:
    layout = arrange(window, frame, count, True, True)
    if layout.scale >= 2:
        assert layout.scale == int(layout.scale)
        assert layout.pictures[0].w == frame[1] * layout.scale
    assert layout.scale <= arrange(window, frame, count, True, False).scale


@given(st.integers(2, 16), frames)
def test_a_comfortable_window_has_the_scale_it_was_made_for(scale: int, frame: tuple[int, int]) -> None:
    size = window_size(frame, scale)
    assert arrange(size, frame, 1, True, True).scale >= scale


def test_letters_grow_with_the_window() -> None:
    assert interface_scale((480, 360)) == 0.8
    assert interface_scale((1156, 678)) == 1.0
    assert 1.2 <= interface_scale((1920, 1080)) <= 1.4
    assert interface_scale((3840, 2160)) == 2.0
