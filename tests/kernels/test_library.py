"""When kernels run and which; without any, everything works all the same."""

from __future__ import annotations

import ctypes
import importlib.machinery
import shutil
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.kernels.compare import VARIANTS, able, both, built, has_renderer
from tests.tiny import lively_world, random_like
from worldsim.engine.world import World, load
from worldsim.kernels import library
from worldsim.kernels.dense import Dense, DenseData
from worldsim.tokenizer.history import HistoryTokenizer
from worldsim.utils.cpu_info import CpuInfo

WARM = CpuInfo(
    flags=frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}),
)
needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("worlds"))


def tokenizer_of(world: World) -> HistoryTokenizer:
    assert isinstance(world.networks.tokenizer, HistoryTokenizer)
    return world.networks.tokenizer


def frames_of(world: World, count: int = 3) -> np.ndarray:
    session = world.engine(1).open(3, 0)
    return np.stack([session.step().frame for _ in range(count)]).astype(float)


@built
def test_the_variant_is_the_fastest_that_the_processor_can_run() -> None:
    assert library.variant() == able()[0]
    assert set(able()) <= set(VARIANTS)
    assert able()[-1] == "portable"


@pytest.mark.parametrize(
    ("lacking", "wanted"),
    [
        *((set(), "avx512"), ({"avx512bw"}, "avx2")),
        *(({"fma"}, "portable"), ({"avx2"}, "portable"), ({"f16c"}, "portable")),
    ],
)
def test_nothing_runs_that_the_processor_lacks(
    monkeypatch: pytest.MonkeyPatch, lacking: set[str], wanted: str
) -> None:
    monkeypatch.setattr(library, "_library", lambda: SimpleNamespace(**dict.fromkeys(map(look, VARIANTS))))
    monkeypatch.setattr(library, "cpu_info", lambda: CpuInfo(flags=WARM.flags - lacking))
    assert library.variant() == wanted


def look(variant: str) -> str:
    return f"worldsim_render_{variant}"


def test_nothing_runs_that_was_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "cpu_info", lambda: WARM)
    monkeypatch.setattr(library, "_library", lambda: SimpleNamespace(worldsim_render_portable=None))
    assert library.variant() == "portable"
    monkeypatch.setattr(library, "_library", lambda: None)
    assert library.variant() is None


@built
def test_variants_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias, x = random_like((150, 70), 0), random_like((150,), 1), random_like((20, 70), 2)
    made = []
    for name in able():
        monkeypatch.setattr(library, "variant", lambda name=name: name)
        made.append(Dense(weight, bias)(x))
    for other in made:
        torch.testing.assert_close(other, made[0], atol=1e-4, rtol=1e-5)


def test_kernels_may_run_where_nothing_is_taught() -> None:
    assert library.kernels_enabled()
    with torch.inference_mode():
        assert library.kernels_enabled()
    with torch.enable_grad():
        assert not library.kernels_enabled()
    assert library.kernels_enabled()


def test_kernels_are_set_aside_until_the_outermost_end() -> None:
    with library.kernels_disabled():
        assert not library.kernels_enabled()
        with library.kernels_disabled():
            assert not library.kernels_enabled()
        assert not library.kernels_enabled()
    assert library.kernels_enabled()
    with pytest.raises(KeyError), library.kernels_disabled():
        raise KeyError
    assert library.kernels_enabled()


def test_kernels_are_set_aside_in_all_threads() -> None:
    seen = []

    def work() -> None:
        with torch.no_grad():
            seen.append(library.kernels_enabled())

    with library.kernels_disabled():
        in_thread(work)
    in_thread(work)
    assert seen == [False, True]


def in_thread(work: object) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)


def test_room_grows_and_is_a_thread_s_own() -> None:
    small = library.workspace(10)
    assert len(small) >= 10
    assert library.workspace(3).data_ptr() == library.workspace(10).data_ptr()
    large = library.workspace(len(small) + 1000)
    assert len(large) >= len(small) + 1000
    assert library.workspace(5).data_ptr() == large.data_ptr()
    others = []
    in_thread(lambda: others.append(library.workspace(5)))
    assert others[0].data_ptr() != large.data_ptr()
    library.address(large)


def test_room_made_where_nothing_is_recorded_is_no_different() -> None:
    with torch.inference_mode():
        made = library.workspace(len(library.workspace(1)) + 1)
    assert not made.is_inference()


def test_the_address_is_of_numbers_that_lie_as_kernels_read_them() -> None:
    x = torch.zeros(4, 6)
    assert library.address(x) == x.data_ptr()
    assert library.address(x[1:]) == x.data_ptr() + 24
    for other in (x.double(), x.bool(), x.T, x[:, ::2], x.to("meta")):
        with pytest.raises(ValueError, match="a kernel takes"):
            library.address(other)


@built
def test_a_shape_that_a_kernel_does_not_expect_is_refused(folder: Path) -> None:
    """Also under ``python -O``: none of it is an assert."""
    dense = Dense(random_like((8, 16), 1))
    with pytest.raises(ValueError, match="a kernel was to read"):
        dense(torch.zeros(3, 15))
    pictures = tokenizer_of(load(folder, "cpu", torch.float32))._warp
    assert pictures is not None
    frame, reach = torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match="a kernel was to read"):
        pictures.warp(torch.eye(4)[None], reach, frame, frame, reach)


@built
def test_structs_are_as_large_as_compiled() -> None:
    class Longer(ctypes.Structure):
        _fields_ = (("one", ctypes.c_double), ("two", ctypes.c_double), ("three", ctypes.c_double))

    library.check_struct(DenseData, "DenseData")
    with pytest.raises(RuntimeError, match="build them again"):
        library.check_struct(Longer, "NormData")


def test_a_world_is_as_lively_without_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_library", lambda: None)
    assert library.variant() is None
    world = load(folder, "cpu", torch.float32)
    assert not has_renderer(tokenizer_of(world).scene)
    assert not tokenizer_of(world).uses_kernels
    assert not world.networks.generator.uses_kernels
    frames = frames_of(world)
    assert frames.std() > 5
    with library.kernels_disabled():
        np.testing.assert_array_equal(frames_of(world), frames)


@built
def test_a_world_dreams_by_kernels_what_it_dreams_without(folder: Path) -> None:
    world = load(folder, "cpu", torch.float32)
    assert tokenizer_of(world).uses_kernels
    assert world.networks.generator.uses_kernels
    assert world.batch_invariant
    quick, slow = both(lambda: frames_of(world))
    assert quick.std() > 5
    assert np.abs(quick - slow).max() <= 1  # of 255: what lies halfway is rounded up or down


@built
def test_in_half_precision_a_place_is_seen_by_kernels(folder: Path) -> None:
    world = load(folder, "cpu", torch.bfloat16)
    assert has_renderer(tokenizer_of(world).scene)
    assert not tokenizer_of(world).uses_kernels
    assert not world.networks.generator.uses_kernels
    quick, slow = both(lambda: frames_of(world, 1))
    assert np.abs(quick - slow).mean() < 1


@needs_a_compiler
@pytest.mark.parametrize(("version", "taken"), [(library._VERSION, True), (library._VERSION + 1, False)])
def test_a_library_of_another_version_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, taken: bool
) -> None:
    ending = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / "version.c").write_text(f"int worldsim_version(void) {{ return {version}; }}\n")
    build = ["cc", "-shared", "-fPIC", "version.c", "-o", f"compiled{ending}"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert (library._library.__wrapped__() is not None) == taken


def test_a_library_that_is_not_there_or_damaged_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert library._library.__wrapped__() is None
    (tmp_path / f"compiled{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    assert library._library.__wrapped__() is None
