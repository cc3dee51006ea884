"""Recipes, plans and starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.rooms import room_spec, write_walks
from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.errors import ConfigError, DataError
from worldsim.networks import Networks
from worldsim.training.plan import prepare_scene
from worldsim.training.recipe_ranges import check_recipe
from worldsim.training.recipes import Recipe, default_recipe, recipe_names, recipe_of
from worldsim.training.sample_grid import write_sample_grid
from worldsim.training.starts import choose_starts


def test_things_may_move_where_no_static_scene_is_told() -> None:
    assert default_recipe(room_spec(static=False)) == "latent-dynamics"
    assert default_recipe(room_spec(static=True)) == "small"


def test_recipes_grow() -> None:
    spec = room_spec(static=False)
    with torch.device("meta"):
        planned = {name: Networks(recipe_of(name).plan(spec, None), spec) for name in recipe_names()}
    sizes = {name: networks.parameter_count() for name, networks in planned.items()}
    assert 1e6 < sizes["small"] < sizes["base"] < sizes["large"]
    assert sizes["small"] < 8e6
    assert sizes["large"] > 5e7
    assert 5e6 < sizes["latent-dynamics"] < sizes["latent-dynamics-gpu"] < 2e7  # which shall fit 40 MB


@pytest.mark.parametrize("name", recipe_names())
def test_every_number_of_a_recipe_has_a_range(name: str) -> None:
    recipe = recipe_of(name)
    check_recipe(recipe)
    for field in dataclasses.fields(recipe):  # type: ignore[arg-type]
        if type(getattr(recipe, field.name)) in (int, float):
            with pytest.raises(ConfigError, match=field.name):
                check_recipe(dataclasses.replace(recipe, **{field.name: -1}))  # type: ignore[type-var]


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'small'") as caught:
        recipe_of("smal")
    assert str(caught.value).count("did you mean") == 1


@pytest.mark.parametrize("wrong", [{"tokenizer": "words"}, {"heads": 5}, {"context": 1}])
def test_a_recipe_that_does_not_fit_is_an_error(recipe: Recipe, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(recipe, **wrong).plan(room_spec(), None)


def test_a_static_scene_is_planned_around_the_cameras(recipe: Recipe, clips: ClipStore) -> None:
    config = recipe.plan(clips.spec, clips.poses)
    assert config.tokenizer.scene is not None
    assert clips.poses is not None
    x0, y0, x1, y1 = config.tokenizer.scene.bounds
    spots = clips.poses[:, :2, 3]
    np.testing.assert_allclose(spots.min(0), [x0 + 1, y0 + 1])
    np.testing.assert_allclose(spots.max(0), [x1 - 1, y1 - 1])
    assert (config.scale_noise_by_speed, config.heads.uses_agent_token) == (True, False)
    elsewhere = dataclasses.replace(clips.spec, static_scene=None)
    other = recipe.plan(elsewhere, clips.poses)
    assert other.tokenizer.scene is None
    assert (other.scale_noise_by_speed, other.heads.uses_agent_token) == (False, True)


def test_twists_are_scaled_by_how_much_the_camera_moves(recipe: Recipe, clips: ClipStore) -> None:
    scale = np.array(recipe.plan(clips.spec, clips.poses).twist_scale)
    # Level circles at 0.1 rad and 0.1 m a frame: no rise, no roll, no pitch.
    assert (scale[[1, 3, 5]] == 0).all()
    assert scale[4] == pytest.approx(0.1, rel=0.05)
    assert np.hypot(scale[0], scale[2]) == pytest.approx(0.1, rel=0.1)


def test_preparing_frees_what_was_visited(recipe: Recipe, clips: ClipStore) -> None:
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec)
    prepare_scene(networks, clips)
    scene = networks.scene
    assert scene is not None
    assert clips.poses is not None
    around = scene.features(torch.from_numpy(camera.planar(clips.poses)).float())
    nearest = around[:, : 16 * 6].reshape(-1, 16, 6)[..., 0]
    assert (nearest < 0).all()


def test_starts_come_with_the_way_there(held_out: ClipStore) -> None:
    starts = choose_starts(held_out, count=5)
    assert len(starts) == 5
    rows = held_out.dataset.episode(held_out.episodes[0].index)
    for start in starts:
        assert start.seed == 20
        assert start.action_prefix is not None
        last = len(start.action_prefix)
        np.testing.assert_array_equal(start.action_prefix, rows.controls[:last])
        np.testing.assert_array_equal(start.frames, rows.frames[last - 3 : last + 1])
        np.testing.assert_array_equal(start.controls[1:], rows.controls[last - 3 : last])
        assert start.poses is not None
        assert rows.poses is not None
        np.testing.assert_array_equal(start.poses[-1], rows.poses[last])


def test_starts_need_episodes_that_are_long_enough(tmp_path: Path) -> None:
    root = write_walks(tmp_path, {20: 10, 40: 12})
    with pytest.raises(DataError, match="more than 12 frames"):
        choose_starts(ClipStore(root, split="held_out"))


def test_a_sample_grid_shows_truth_above_the_rollout(
    recipe: Recipe, held_out: ClipStore, tmp_path: Path
) -> None:
    networks = Networks(recipe.plan(held_out.spec, held_out.poses), held_out.spec)
    networks.requires_grad_(False)
    write_sample_grid(networks, held_out, tmp_path / "grid.png", rows=2)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 2 * 60, 3 * 80, 3)  # 18 frames: 0, 8 and 16
    np.testing.assert_array_equal(grid[:60, :80], grid[60:120, :80])
