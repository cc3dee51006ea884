"""A trained world as one of larger frames: the same latents, dynamics, rewards, ends and policies."""

from __future__ import annotations

from dataclasses import replace

from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError
from worldsim.networks import Networks
from worldsim.tokenizer.protocol import Enlargeable

__all__ = ["enlarged"]

_TOKENIZER = "tokenizer."


def enlarged(networks: Networks, learnt: SourceSpec, given: SourceSpec) -> Networks:
    """The networks for frames of the size of ``given``, which is that of ``learnt`` or a whole multiple.

    At first the larger world shows every pixel of the smaller one as several equal ones; its decoder can then
    learn from larger frames (``keep_latents`` of the recipe latent-dynamics).

    Raises:
        ConfigError: the sizes do not fit, or the tokenizer cannot be enlarged.
    """
    if learnt.size == given.size:
        return networks
    factor, config = given.size[0] // learnt.size[0], networks.config.tokenizer
    if factor < 1 or given.size != (factor * learnt.size[0], factor * learnt.size[1]):
        rule = f"--init needs a world of the data's frame size, {given.size}, or of one that divides it"
        raise ConfigError(rule, learnt.size, "choose another world, or --size")
    if not isinstance(config, Enlargeable):
        rule = f"--init needs a world of the data's frame size, {given.size}, or one with the tokenizer vae"
        raise ConfigError(rule, f"{learnt.size}, {type(config).__name__}", "choose another world, or --size")
    made = Networks(replace(networks.config, tokenizer=config.enlarged(factor)), given)
    weights = networks.state_dict()
    small = {name[len(_TOKENIZER) :]: part for name, part in weights.items() if name.startswith(_TOKENIZER)}
    large = config.enlarge_weights(small, factor)
    made.load_state_dict(weights | {_TOKENIZER + name: part for name, part in large.items()})
    return made
