"""The built-in parts: importing this module registers them."""

from worldsim import units
from worldsim.model import recurrent, transformer
from worldsim.sampling import flow, remainder_flow
from worldsim.tokenizer import frame, history, vae

__all__ = ["flow", "frame", "history", "recurrent", "remainder_flow", "transformer", "units", "vae"]
