"""The networks of a world, built from one config: tokenizer, generator, sampler, heads.

Parts are named in the config; sizes that follow from other sizes are worked out here and stored nowhere.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from worldsim import parts
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError, EngineError
from worldsim.kernels.motion import MotionKernel
from worldsim.model.conditions import Conditions
from worldsim.model.dynamics import CollisionFn
from worldsim.model.heads import Heads, HeadsConfig
from worldsim.model.noise_scale import noise_scale
from worldsim.model.protocol import Generator, GeneratorConfig
from worldsim.registry import Part
from worldsim.sampling.protocol import Chances, KnowsChances, Sampler, SamplerConfig
from worldsim.scene.static_scene import StaticScene
from worldsim.scene.territory import Territory
from worldsim.scene.walkable_map import COLLISION_DIM, WalkableMap, WalkableMapConfig
from worldsim.tokenizer.protocol import ClipTokenizer, Prior, Tokenizer, TokenizerConfig, clip_tokenizer
from worldsim.units import FrameUnitConfig, ResizedUnit, Unit, UnitConfig, unit_text

TWIST = 6
"""Length of a twist: metres right, down and forward, then radians about these axes."""


HIGHEST_NOISE_GAIN = 4.0
"""Largest factor of the sampled noise that a config may ask for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworksConfig:
    """The parts, by name, and what no part owns."""

    tokenizer: Annotated[Any, Part("tokenizer")]
    generator: Annotated[Any, Part("generator")]
    sampler: Annotated[Any, Part("sampler")] = field(default_factory=parts.flow.FlowConfig)
    unit: Annotated[Any, Part("unit")] = field(default_factory=FrameUnitConfig)
    other_units: tuple[Annotated[Any, Part("unit")], ...] = ()
    """Other units that the generator was trained for, of as many frames and tokens: ``engine(unit=...)``."""
    conditions: tuple[Annotated[Any, Part("condition")], ...] = ()
    """Encoders of the control's channels after keys and yaw, one for each that the control space has."""
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    twist_scale: tuple[float, ...] = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    """Twists are divided by this: metres (3) and radians (3) a frame that count as 1; 0: never moves."""
    walkable_map: WalkableMapConfig | None = None
    """Walkable map of a static scene; None without one."""
    condition_on_keys: bool = True
    """Frames are conditioned on keys beside the camera's motion."""
    sample_ends: bool = False
    """Sample ends of episodes by their probability; else an episode ends where that is above 1/2."""
    typical_contrast: float = 0.052
    """Mean length of the brightness gradient of the source's frames, of a pixel range of 2; measured when the
    world is trained. ``Step.uncertainty`` weighs pose errors by a frame's contrast over this."""
    scale_noise_by_speed: bool = False
    """Noise scales with the camera's speed and is zero at rest; for sources in which nothing else moves."""
    noise_gain: float = 1.0
    """Factor of the sampled noise at temperature 1; ``worldsim calibrate`` fits it to a trained world."""

    def __post_init__(self) -> None:
        if not 0 < self.noise_gain <= HIGHEST_NOISE_GAIN:
            rule = f"noise_gain must be above 0 and at most {HIGHEST_NOISE_GAIN:g}"
            raise ConfigError(rule, self.noise_gain, "fit it with `worldsim calibrate`")


class Networks(nn.Module):
    """Tokenizer, generator, sampler and heads.

    Args:
        config: the parts.
        source: of the frames, the camera and the controls; its frames have the world's size.

    Raises:
        ConfigError: parts that do not fit each other or the source.
    """

    tokenizer: Tokenizer
    generator: Generator
    pyramid: Tensor | None
    latent_tokens: Tensor | None
    frame_of: Tensor
    """Frame of each of the unit's tokens within the unit, int64 [N]."""

    def __init__(self, config: NetworksConfig, source: SourceSpec) -> None:
        super().__init__()
        self.config = config
        self.control_size = source.control_space.size
        """Length of the control vector, M."""
        self.motion_size = source.control_space.motion_size
        """Length of its part that moves the camera: keys and yaw, J."""
        self.conditions = Conditions(config.conditions, source.control_space)
        self._build_parts(config, source)
        self.walkable_map = WalkableMap(config.walkable_map) if config.walkable_map is not None else None
        scene, walkable_map = self.scene, config.walkable_map
        self.heads = Heads(
            config.heads,
            agent=self.generator.width,
            control=self.motion_size,
            scene_feature_dim=0 if scene is None else scene.config.feature_dim,
            walkable_dim=0 if walkable_map is None else walkable_map.walkable_dim,
            collision_dim=0 if walkable_map is None else COLLISION_DIM,
        )
        self.motion_kernel: MotionKernel | None = None
        """Kernel of the camera motion, for inference; None where unsupported."""
        self.territory: Territory | None = None
        """Poses that the world covers; None in training."""

    @property
    def condition_size(self) -> int:
        """Length of a frame's condition: keys, yaw, twist, then the encoded channels."""
        return self.motion_size + TWIST + self.conditions.size

    def _build_parts(self, config: NetworksConfig, source: SourceSpec) -> None:
        """Build tokenizer, generator and sampler, each from what the one before tells."""
        condition_size = self.condition_size
        tokenizer: TokenizerConfig = config.tokenizer
        generator: GeneratorConfig = config.generator
        sampler: SamplerConfig = config.sampler
        unit: UnitConfig = config.unit
        self.tokenizer = tokenizer.build(source.size, condition_size, source.intrinsics)
        latent = self.tokenizer.latent_spec
        self._set_unit(unit)
        sizes = (latent, self.tokenizer.prior_channels, self.unit.frames * condition_size)
        self.generator = generator.build(self.unit, *sizes)
        self.sampler: Sampler = sampler.build(latent, self.generator)
        self._knows_chances = self.sampler if isinstance(self.sampler, KnowsChances) else None
        for other in config.other_units:
            check_unit(self.generator, other.build(latent))

    def _set_unit(self, config: UnitConfig) -> None:
        """Set the unit, and the weights of its tokens where it has more than its frames' latents."""
        self.unit = unit = config.build(self.tokenizer.latent_spec)
        pyramid = latent_tokens = None
        if isinstance(unit, ResizedUnit):
            pyramid = torch.from_numpy(unit.pyramid())
            latent_tokens = torch.from_numpy(unit.latent_tokens())
        self.register_buffer("pyramid", pyramid, persistent=False)
        self.register_buffer("latent_tokens", latent_tokens, persistent=False)
        frame_of = torch.from_numpy(unit.positions()[:, 0].astype(np.int64))
        self.register_buffer("frame_of", frame_of, persistent=False)

    def for_unit(self, config: UnitConfig) -> Networks:
        """The same weights, in the same memory, with another unit that they were trained for.

        Raises:
            ConfigError: they were not trained for this unit.
        """
        check_trained(self.config, config)
        if config == self.config.unit:
            return self
        assert isinstance(self.generator, SharedGenerator), "checked when the networks were built"
        other = copy.copy(self)
        for name in ("_modules", "_buffers"):
            other.__dict__[name] = dict(self.__dict__[name])
        units = trained_units(self.config)
        at = units.index(config)
        other.config = replace(self.config, unit=config, other_units=units[at + 1 :] + units[:at])
        other._set_unit(config)
        other.generator = self.generator.for_unit(other.unit)
        return other.to(self.device)

    def unit_tokens(self, frames: Tensor) -> Tensor:
        """Numbers of a unit's latent tokens [..., F n, X], frame-major, as its own tokens [..., N, X].

        The coarse scales of a unit of scales are averages of its latent. Where a latent holds all frames of a
        unit, each frame has it, and the first one's is taken.
        """
        if self.clip_tokenizer is not None:
            return frames[..., : self.unit.tokens, :]
        if self.pyramid is None or self.latent_tokens is None:
            return frames
        with torch.autocast(frames.device.type, enabled=False):
            tokens = self.pyramid @ frames.float()
        tokens[..., self.latent_tokens, :] = frames.float()
        return tokens.to(frames.dtype)

    def frame_latents(self, tokens: Tensor) -> Tensor:
        """A unit's tokens [..., N, C] as the latents of its frames [..., F n, C]: ``unit_tokens`` undone."""
        if self.clip_tokenizer is not None:
            return torch.cat([tokens] * self.unit.frames, -2)
        return tokens if self.latent_tokens is None else tokens[..., self.latent_tokens, :]

    @property
    def clip_tokenizer(self) -> ClipTokenizer | None:
        """The tokenizer, if its latents hold several frames, which are those of a unit; else None."""
        return clip_tokenizer(self.tokenizer)

    @property
    def scene(self) -> StaticScene | None:
        """The static scene; None where there is none."""
        return self.tokenizer.scene

    def prepare(self, dtype: torch.dtype) -> None:
        """Cast once what multiplies many rows, so that no autocast is needed.

        Each part says what stays float32. On a CPU kernels take over what they can, in float32, too. Weights
        must stay as they are from then on.
        """
        self.tokenizer.prepare(dtype)
        self.generator.prepare_inference(dtype)
        scene, motion = self.scene, self.heads.motion
        if (
            scene is not None
            and scene.renderer is not None
            and motion is not None
            and self.walkable_map is not None
        ):
            self.motion_kernel = motion.packed(
                scene.renderer, self.walkable_map.packed(), self.config.twist_scale
            )
        self.heads.prepare(dtype)

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support all of a frame, from the prior to the last pixel."""
        return self.tokenizer.supports_kernels and self.generator.supports_kernels

    def normalise(self, twist: np.ndarray) -> np.ndarray:
        """Twists [..., 6] in metres and radians to multiples of the scale, float32."""
        scale = np.asarray(self.config.twist_scale)
        return (twist / np.where(scale > 0, scale, 1)).astype(np.float32)

    def in_territory(self, poses: Tensor, twist: Tensor, given: Tensor | None) -> Tensor:
        """Cameras within the world's territory, bool [B]; see ``Territory.contains``."""
        if self.territory is None:
            return torch.ones(len(poses), dtype=torch.bool, device=poses.device)
        return self.territory.contains(poses, twist, given)

    def condition(self, vector: Tensor, twist: Tensor) -> Tensor:
        """Control vectors [..., M] and normalised twists [..., 6] as conditions of frames [..., Q]."""
        condition: Tensor = self.conditions(vector, twist, self.config.condition_on_keys)
        return condition

    def steering(self, vector: Tensor) -> Tensor:
        """Keys and yaw [..., J] of control vectors [..., M]: what moves the camera."""
        return vector[..., : self.motion_size]

    def noise_scale(self, twist: Tensor) -> Tensor:
        """Factor of the noise [B] where cameras move by the normalised ``twist`` [B, 6]."""
        if self.config.scale_noise_by_speed:
            return noise_scale(twist) * self.config.noise_gain
        return torch.full_like(twist[:, 0], self.config.noise_gain)

    @property
    def has_poses(self) -> bool:
        """True where the source has poses."""
        return self.config.heads.poses

    @property
    def knows_chances(self) -> bool:
        """True where the sampler knows the probability of a frame: of a latent that holds one alone."""
        return self._knows_chances is not None and self.unit.frames == 1

    @property
    def tells_uncertainty(self) -> bool:
        """True where imagined frames have an uncertainty: with poses, or where chances are known."""
        return self.has_poses or self.knows_chances

    def chances(self, prepared: Any, tokens: Tensor) -> Chances | None:
        """Chances of a unit's tokens [B, N, C], before their commit; None where they are not known."""
        if self._knows_chances is None or not self.knows_chances:
            return None
        return self._knows_chances.chances(self.generator, prepared, tokens)

    @property
    def uses_agent_token(self) -> bool:
        """True where a head reads the agent token: motion without a static scene, or the outcome."""
        return self.scene is None or self.config.heads.uses_agent_token

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def decode_frame(self, latent: Tensor, prior: Prior, slot: int) -> Tensor:
        """Frame ``slot`` of a unit [B, 3, H, W], from its latent [B, n, C] and the prior it is made on."""
        if self.clip_tokenizer is not None:
            return self.clip_tokenizer.decode_frame(latent, prior, slot)
        return self.tokenizer.decode(latent, prior)

    def scene_features(self, planar: Tensor | None) -> Tensor | None:
        """Scene features [B, S] of cameras [B, 4] (x, y, z, yaw); None without a static scene."""
        return None if self.scene is None or planar is None else self.scene.features(planar)

    def dynamics_features(self, planar: Tensor) -> Tensor | None:
        """Input of the dynamics: scene and walkable features of cameras [B, 4]; None without a scene."""
        seen = self.scene_features(planar)
        if seen is None or self.walkable_map is None:
            return seen
        return torch.cat([seen, self.walkable_map.walkable_features(planar)], -1)

    def predict_outcome(self, agent: Tensor, planar: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reward logits [..., 41] and the continue logit [...] of the frame just made.

        Read from the scene features of its camera [B, 4], its agent token [B, D], or both.
        """
        return self.heads.predict_outcome(agent, self.scene_features(planar))

    def collision_fn(self, planar: Tensor) -> CollisionFn | None:
        """Collision features of cameras [B, 4] as a function of displacement; None without a map."""
        return None if self.walkable_map is None else partial(self.walkable_map.collision_features, planar)

    def parameter_count(self) -> int:
        """Numbers in all weights."""
        return sum(parameter.numel() for parameter in self.parameters())


@runtime_checkable
class SharedGenerator(Protocol):
    """A generator whose weights serve several units of the same form."""

    def for_unit(self, unit: Unit) -> Any:
        """The same weights under another unit."""


def check_unit(generator: Generator, unit: Unit) -> None:
    """Check that a generator's weights can serve ``unit``.

    Raises:
        ConfigError: they cannot.
    """
    if not isinstance(generator, SharedGenerator):
        rule = "a generator that serves several units must be a transformer"
        raise ConfigError(rule, type(generator).__name__, "leave other_units out")
    generator.for_unit(unit)


def trained_units(config: NetworksConfig) -> tuple[UnitConfig, ...]:
    """The units that networks were trained for, that of their config first."""
    return (config.unit, *config.other_units)


def check_trained(config: NetworksConfig, unit: UnitConfig) -> None:
    """Check that networks were trained for ``unit``.

    Raises:
        ConfigError: they were not; the message has the units that they know.
    """
    known = trained_units(config)
    if unit not in known:
        names = ", ".join(map(unit_text, known))
        raise ConfigError(f"the unit must be one that the world was trained for: {names}", unit_text(unit))


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
