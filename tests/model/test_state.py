"""Generator states: rows go out and come back, a commit can be undone, what is loaded is checked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import random_like
from worldsim.errors import EngineError
from worldsim.model.cache import Cache
from worldsim.model.state import GeneratorState, RingState, TensorState

BATCH = 3


def recurrent() -> TensorState:
    return TensorState({"h": torch.zeros(BATCH, 4)}, context=5)


def ring() -> RingState:
    tensors = {"h": torch.zeros(BATCH, 4), "keys": torch.zeros(BATCH, 2, 3, 5)}
    return RingState(tensors, context=5, rings=("keys",))


def cached() -> Cache:
    like = torch.zeros(1)
    return Cache.empty(layers=1, batch=BATCH, frames=4, tokens=2, heads=1, dim=4, sinks=1, like=like)


def commit(state: GeneratorState, seed: int) -> None:
    """What a generator would leave, of as many rows as the state is about."""
    rows = len(state.units)
    if isinstance(state, RingState):
        state.set_next(keys=random_like((rows, 2, 5), seed + 90))
    if isinstance(state, TensorState):
        state.set(h=state["h"] + random_like((rows, 4), seed))
    else:
        assert isinstance(state, Cache)
        shape = (1, rows, 2, 1, 4)
        state.write(random_like(shape, seed), random_like(shape, seed + 50))


def told(state: GeneratorState) -> dict[str, Tensor]:
    return {name: part.clone() for name, part in state.tensors().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=[recurrent, ring, cached])
def state(request: pytest.FixtureRequest) -> GeneratorState:
    made: GeneratorState = request.param()
    commit(made, 0)
    return made


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([0, 2])])
def test_some_rows_are_stepped_and_the_others_stay(state: GeneratorState, rows: slice | Tensor) -> None:
    before = told(state)
    part = state.over(rows)
    commit(part, 1)
    state.take(rows, part)
    after = told(state)
    moved = torch.zeros(BATCH, dtype=torch.bool)
    moved[rows] = True
    for name, tensor in after.items():
        changed = (tensor != before[name]).reshape(BATCH, -1).any(1)
        assert torch.equal(changed, moved), name


def test_commits_are_undone_newest_first(state: GeneratorState) -> None:
    before, pages = told(state), []
    for seed in range(1, 7):
        pages.append(state.undo_entry())
        commit(state, seed)
    for page in reversed(pages):
        state.undo(page)
    assert same(told(state), before)


def test_units_are_counted_and_a_page_undoes_nothing_too(state: GeneratorState) -> None:
    before = told(state)
    assert state.units.tolist() == [1] * BATCH
    state.undo(state.undo_entry())
    assert same(told(state), before)
    commit(state, 1)
    assert state.over(slice(0, 2)).units.tolist() == [2, 2]


def test_one_row_s_page_undoes_that_row(state: GeneratorState) -> None:
    before, page = told(state), state.undo_entry()
    commit(state, 1)
    state.over(slice(1, 2)).undo(page.row(1))
    for name, tensor in told(state).items():
        assert torch.equal(tensor[1], before[name][1])
    assert not same(told(state), before)


def test_copies_share_nothing_and_rows_are_put_back(state: GeneratorState) -> None:
    copy, before = state.pick(slice(0, 2)), told(state)
    commit(copy, 1)
    assert same(told(state), before)
    state.put(torch.tensor([2, 0]), copy)
    for name, tensor in told(state).items():
        assert torch.equal(tensor[[2, 0]], copy.tensors()[name])
        assert torch.equal(tensor[1], before[name][1])
    other = state.pick(slice(None))
    commit(other, 2)
    state.replace(torch.tensor([False, True, False]), other)
    assert torch.equal(next(iter(state.tensors().values()))[1], next(iter(other.tensors().values()))[1])


def test_what_is_loaded_is_what_was_told(state: GeneratorState) -> None:
    for seed in range(1, 8):
        commit(state, seed)
    fresh = next(make() for make in (recurrent, ring, cached) if type(make()) is type(state))
    fresh.load(told(state))
    assert same(told(fresh), told(state))
    commit(state, 9)
    commit(fresh, 9)
    assert same(told(fresh), told(state))
    assert fresh.context == state.context
    assert fresh.nbytes == sum(part[:1].nbytes for part in told(state).values())


def test_what_no_commit_left_is_refused(state: GeneratorState) -> None:
    good, before = told(state), told(state)
    name = next(name for name, part in good.items() if part.is_floating_point())
    wrong = [
        {key: part for key, part in good.items() if key != name},
        good | {"more": torch.zeros(BATCH)},
        good | {name: good[name][:2]},
        good | {name: good[name].long()},
        good | {name: torch.full_like(good[name], torch.nan)},
    ]
    for tensors in wrong:
        with pytest.raises(EngineError, match="generator"):
            state.load(tensors)
    assert same(told(state), before)


@pytest.mark.parametrize(
    ("index", "written"),
    [
        (-1, [-1] * 4),
        (1, [-1] * 4),
        (2, [0, 1, 2, -1]),
        (6, [0, 1, 2, 3]),
        (6, [0, 4, 5, 2]),
        (5, [4, 4, 2, 3]),
    ],
)
def test_a_ring_that_cannot_be_is_refused(index: int, written: list[int]) -> None:
    cache = cached()
    tensors = told(cache) | {
        "index": torch.full((BATCH,), index),
        "written": torch.tensor(written).repeat(BATCH, 1),
    }
    with pytest.raises(EngineError, match="sinks and the newest"):
        cache.load(tensors)
