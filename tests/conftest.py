"""Settings for all tests: Ctrl-C heeded, one thread, no display, seeded draws, no deadlines."""

import atexit
import os
import random
import shutil
import signal
import sys
import tempfile

# Set before torch or pygame is imported: threads only slow tiny models down, and no test opens a window.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

if "WORLDSIM_CACHE" not in os.environ:  # results of a run of the tests end with it
    os.environ["WORLDSIM_CACHE"] = tempfile.mkdtemp(prefix="worldsim-tests-")
    atexit.register(shutil.rmtree, os.environ["WORLDSIM_CACHE"], ignore_errors=True)

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("worldsim", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("worldsim")

# A run in the background inherits an ignored SIGINT; tests that send one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draws that name no generator are the same in every run and every order of tests."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
