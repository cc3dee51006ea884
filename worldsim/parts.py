"""The built-in parts: importing this module registers them."""

from worldsim import units
from worldsim.model import transformer
from worldsim.sampling import flow
from worldsim.tokenizer import frame, history

__all__ = ["flow", "frame", "history", "transformer", "units"]
