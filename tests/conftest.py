"""Settings for all tests: one thread, no display, and property tests without deadlines."""

import os

# Set before torch or pygame is imported: threads only slow tiny models down, and no test opens a window.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

from hypothesis import settings

settings.register_profile("worldsim", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("worldsim")
