"""The built-in parts: importing this module registers them."""

from worldsim import units
from worldsim.model import action, next_scale, prompt, recurrent, transformer
from worldsim.sampling import bernoulli, flow, remainder_flow
from worldsim.sampling import next_scale as next_scale_sampler
from worldsim.tokenizer import bits, bits_plain, frame, history, vae

__all__ = [
    "action",
    "bernoulli",
    "bits",
    "bits_plain",
    "flow",
    "frame",
    "history",
    "next_scale",
    "next_scale_sampler",
    "prompt",
    "recurrent",
    "remainder_flow",
    "transformer",
    "units",
    "vae",
]
