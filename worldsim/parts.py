"""The built-in parts: importing this module registers them."""

from worldsim import units
from worldsim.model import action, prompt, recurrent, transformer
from worldsim.sampling import bernoulli, flow, remainder_flow
from worldsim.tokenizer import bits_plain, frame, history, vae

__all__ = [
    "action",
    "bernoulli",
    "bits_plain",
    "flow",
    "frame",
    "history",
    "prompt",
    "recurrent",
    "remainder_flow",
    "transformer",
    "units",
    "vae",
]
