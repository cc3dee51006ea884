"""The bundle of networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import lively_world
from worldsim.checkpoint import WorldConfig, load_world
from worldsim.errors import ConfigError, EngineError
from worldsim.model.prompt import PromptConditionConfig
from worldsim.networks import Networks, find_device


@pytest.fixture
def config(tmp_path: Path) -> WorldConfig:
    return load_world(lively_world(tmp_path)).config


def test_parts_fit_together(config: WorldConfig) -> None:
    networks = Networks(config.networks, config.source)
    assert networks.unit.tokens == networks.tokenizer.latent_spec.tokens
    assert networks.heads.motion is not None
    assert networks.parameter_count() == sum(p.numel() for p in networks.parameters())
    assert networks.device == torch.device("cpu")


def test_twists_count_in_multiples_of_their_scale(config: WorldConfig) -> None:
    scale = (0.5, 1.0, 2.0, 0.0, 0.1, 1.0)
    networks = Networks(dataclasses.replace(config.networks, twist_scale=scale), config.source)
    normal = networks.normalise(np.array([0.5, 1.0, 2.0, 0.0, 0.1, 1.0]))
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal, [1, 1, 1, 0, 1, 1])


def test_each_channel_must_have_one_condition(config: WorldConfig) -> None:
    space = dataclasses.replace(config.source.control_space, prompts=("rain", "snow"))
    source, prompt = dataclasses.replace(config.source, control_space=space), PromptConditionConfig(width=3)
    with pytest.raises(ConfigError, match="prompt"):
        Networks(config.networks, source)
    given = dataclasses.replace(config.networks, conditions=(prompt,))
    networks = Networks(given, source)
    assert networks.condition_size == Networks(config.networks, config.source).condition_size + 3
    with pytest.raises(ConfigError, match="channel"):
        Networks(given, config.source)


def test_a_world_without_further_channels_is_conditioned_on_keys_yaw_and_twist(config: WorldConfig) -> None:
    networks = Networks(config.networks, config.source)
    vector, twist = torch.randn(2, 3, networks.control_size), torch.randn(2, 3, 6)
    assert torch.equal(networks.condition(vector, twist), torch.cat([vector, twist], -1))
    assert not list(networks.conditions.parameters())
    before = np.random.default_rng(0)
    assert networks.conditions.withhold(vector, before) is vector
    assert before.random() == np.random.default_rng(0).random()


def test_the_device_must_be_there() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(EngineError, match="device must exist"):
        find_device("cuda:99")
