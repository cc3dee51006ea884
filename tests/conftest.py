"""Settings for all tests: Ctrl-C heeded, one thread, no display, property tests without deadlines."""

import os
import signal

# Set before torch or pygame is imported: threads only slow tiny models down, and no test opens a window.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

from hypothesis import settings

settings.register_profile("worldsim", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("worldsim")

# A run in the background inherits an ignored SIGINT; tests that send one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
