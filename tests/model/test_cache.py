"""The ring of past frames: sinks stay, the oldest of the rest goes, rows can be copied out and in."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.model.cache import Cache

LAYERS, BATCH, FRAMES, TOKENS, HEADS, DIM = 2, 3, 4, 2, 1, 8


def empty(batch: int = BATCH, sinks: int = 1, dtype: torch.dtype = torch.float32) -> Cache:
    return Cache.empty(
        layers=LAYERS,
        batch=batch,
        frames=FRAMES,
        tokens=TOKENS,
        heads=HEADS,
        dim=DIM,
        sinks=sinks,
        like=torch.zeros(1, dtype=dtype),
    )


def write(cache: Cache, value: float) -> None:
    """Append a frame whose keys and values are all ``value``."""
    shape = (LAYERS, len(cache.index), TOKENS, HEADS, DIM)
    cache.write(torch.full(shape, value), torch.full(shape, value))


def held(cache: Cache, row: int = 0) -> list[int]:
    """Frames that a row holds, in the order of time."""
    return sorted(int(frame) for frame in cache.written[row] if frame >= 0)


def test_it_fills_and_then_forgets_the_oldest_but_the_sinks() -> None:
    for sinks, kept in ((0, [5, 6, 7, 8]), (1, [0, 6, 7, 8]), (2, [0, 1, 7, 8])):
        cache = empty(sinks=sinks)
        for frame in range(9):
            assert held(cache) == held(cache, BATCH - 1)
            write(cache, float(frame))
        assert held(cache) == kept
        torch.testing.assert_close(cache.values[0, 0, :, 0, 0, 0], cache.written[0].float())
        assert cache.index.tolist() == [9] * BATCH


def test_values_are_read_as_written_and_empty_places_are_marked() -> None:
    cache = empty()
    write(cache, 1.0)
    for past in cache.read():
        assert past.filled.tolist() == [[True, False, False, False]] * BATCH
        assert past.values[0, :, 0, 0, 0].tolist() == [1, 0, 0, 0]


def test_a_key_is_turned_by_its_age_which_ends_at_the_length_of_the_ring() -> None:
    cache = empty()
    seen = []
    for frame in range(9):
        write(cache, 1.0)
        place = int((cache.written[0] == 0).nonzero()) if frame else 0
        seen.append(cache.read()[0].keys[0, place, 0, 0])
    for age in range(1, FRAMES):
        assert (seen[age] - seen[age - 1]).abs().max() > 1e-3
    for old in seen[FRAMES:]:
        torch.testing.assert_close(old, seen[FRAMES - 1])


def test_reading_follows_writing() -> None:
    cache = empty()
    write(cache, 1.0)
    first = cache.read()
    assert cache.read() is first
    write(cache, 2.0)
    assert cache.read()[0].values[0, 1, 0, 0, 0] == 2


def test_rows_come_out_as_copies_and_go_back_in() -> None:
    cache = empty()
    write(cache, 1.0)
    copy = cache.pick(torch.tensor([2, 0]))
    write(copy, 2.0)
    assert held(cache, 2) == [0]
    cache.read()
    cache.put(torch.tensor([1, 2]), copy)
    assert [held(cache, row) for row in range(BATCH)] == [[0], [0, 1], [0, 1]]
    assert cache.read()[0].filled.sum(1).tolist() == [1, 2, 2]
    assert cache.index.tolist() == [1, 2, 2]


def test_one_row_can_be_put_in_many_places_and_in_another_number_type() -> None:
    single = empty(batch=1)
    write(single, 3.0)
    cache = empty(dtype=torch.bfloat16)
    cache.put(torch.arange(BATCH), single)
    assert cache.keys.dtype == torch.bfloat16
    assert (cache.values[:, :, 0] == 3).all()


@given(st.integers(0, 12), st.integers(1, 6), st.booleans())
def test_a_write_can_be_undone(before: int, after: int, dense: bool) -> None:
    """To the bit, for some rows alone, whether they are named by a slice or by number."""
    cache = empty()
    for t in range(before):
        write(cache, float(t))
    kept = cache.pick(torch.arange(BATCH))
    some = cache.over(slice(0, 2) if dense else torch.tensor([0, 1]))
    pages, shape = [], (LAYERS, 2, TOKENS, HEADS, DIM)
    for t in range(after):
        pages.append(some.undo_entry())
        some.write(torch.full(shape, 50.0 + t), torch.full(shape, 50.0 + t))
    assert cache.index.tolist() == [before + after, before + after, before]
    for page in reversed(pages):
        some.undo(page)
    for name in ("keys", "values", "written", "index"):
        assert torch.equal(getattr(cache, name), getattr(kept, name)), name
