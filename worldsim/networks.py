"""The three networks of a world, built from one config: tokenizer, generator, heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.errors import ConfigError, EngineError
from worldsim.kernels.move import Mover
from worldsim.model.dynamics import Meeting
from worldsim.model.footing import Footing, FootingConfig
from worldsim.model.generator import Generator, GeneratorConfig
from worldsim.model.heads import Heads, HeadsConfig
from worldsim.tokenizer.build import build_tokenizer
from worldsim.tokenizer.frame import FrameConfig
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer
from worldsim.units import Frame


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworksConfig:
    """All that is needed to build the networks."""

    generator: GeneratorConfig
    heads: HeadsConfig
    history: HistoryConfig | None = None
    """The tokenizer whose decoder sees the past; exactly one of ``history`` and ``frame`` is given."""
    frame: FrameConfig | None = None
    """The per-frame tokenizer."""
    twist_scale: tuple[float, ...] = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    """Twists are divided by this: metres (3) and radians (3) a frame that count as 1; 0: never moves."""
    footing: FootingConfig | None = None
    """Of sources that are one still place: the map of where one can stand."""
    hears_keys: bool = True
    """Whether pictures are made knowing the keys beside the camera's motion."""

    def __post_init__(self) -> None:
        if (self.history is None) == (self.frame is None):
            given = [name for name in ("history", "frame") if getattr(self, name) is not None]
            raise ConfigError("networks need exactly one tokenizer, history or frame", given)


class Networks(nn.Module):
    """Tokenizer, generator and heads."""

    def __init__(self, config: NetworksConfig) -> None:
        super().__init__()
        self.config = config
        tokenizer = config.history or config.frame
        assert tokenizer is not None, "checked by the config"
        self.tokenizer = build_tokenizer(tokenizer)
        unit = Frame(tokens=self.tokenizer.tokens, grid=self.tokenizer.grid)
        self.generator = Generator(config.generator, unit)
        self.heads = Heads(config.heads)
        self.footing = Footing(config.footing) if config.footing is not None else None
        self.mover: Mover | None = None
        """What moves cameras where nothing is taught, if there are kernels."""

    def quicken(self, dtype: torch.dtype) -> None:
        """Let kernels do what they can from now on, where nothing is taught, on a CPU; weights must stay.

        ``dtype`` is the type that the weights are about to have: kernels count in float32.
        """
        whole = dtype == torch.float32
        if whole:
            self.generator.quicken()
        place = None
        if isinstance(self.tokenizer, HistoryTokenizer):
            self.tokenizer.quicken(decodes=whole)
            place = self.tokenizer.place
        motion, look = self.heads.motion, None if place is None else place.look
        if look is not None and motion is not None and self.footing is not None:
            self.mover = motion.packed(look, self.footing.packed(), self.config.twist_scale)

    def normalise(self, twist: np.ndarray) -> np.ndarray:
        """Twists [..., 6] in metres and radians to multiples of the scale, float32."""
        scale = np.asarray(self.config.twist_scale)
        return (twist / np.where(scale > 0, scale, 1)).astype(np.float32)

    def control(self, vector: Tensor, twist: Tensor) -> Tensor:
        """Keys and look [..., M] and normalised twist [..., 6] as pictures hear of them, [..., M + 6]."""
        heard = vector if self.config.hears_keys else torch.zeros_like(vector)
        return torch.cat([heard, twist], -1)

    @property
    def has_poses(self) -> bool:
        """Whether the source has poses."""
        return self.config.heads.poses

    @property
    def hears_agent(self) -> bool:
        """Whether anything follows from the agent's token; in a world with a place nothing does."""
        return self.config.heads.surroundings == 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def around(self, planar: Tensor) -> Tensor | None:
        """What dynamics are told of what is around cameras [B, 4] (x, y, z, yaw); None without a place."""
        seen = self.tokenizer.surroundings(planar)
        if seen is None or self.footing is None:
            return seen
        return torch.cat([seen, self.footing.feel(planar)], -1)

    def meeting(self, planar: Tensor) -> Meeting | None:
        """What dynamics are told of what is in the way of cameras [B, 4]; None without a footing."""
        return None if self.footing is None else partial(self.footing.meet, planar)

    def parameter_count(self) -> int:
        """Numbers in all weights."""
        return sum(parameter.numel() for parameter in self.parameters())


def find_device(name: str | torch.device) -> torch.device:
    """The device of this name; "auto": CUDA where there is one, else the CPU.

    Raises:
        EngineError: the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EngineError("the device must exist", str(name), "use device='auto' or 'cpu'") from error
    return device
