from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim import config
from worldsim.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    width: int = 64
    rates: tuple[float, ...] = ()
    size: tuple[int, int] = (60, 80)
    kind: Literal["flow", "bits"] = "flow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str
    on: bool = False
    scale: float | None = None
    limit: int | str = 3
    inner: Inner = field(default_factory=Inner)
    spare: Inner | None = None
    layers: tuple[Inner, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)


inners = st.builds(
    Inner,
    width=st.integers(-(2**40), 2**40),
    rates=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
    size=st.tuples(st.integers(), st.integers()),
    kind=st.sampled_from(["flow", "bits"]),
)
outers = st.builds(
    Outer,
    name=st.text(),
    on=st.booleans(),
    scale=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    limit=st.integers() | st.text(),
    inner=inners,
    spare=st.none() | inners,
    layers=st.lists(inners, max_size=2).map(tuple),
    weights=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
)


@given(outers)
def test_a_config_survives_its_dict(cfg: Outer) -> None:
    assert config.from_dict(Outer, config.to_dict(cfg)) == cfg


@given(cfg=outers)
def test_a_config_survives_its_file(tmp_path_factory: pytest.TempPathFactory, cfg: Outer) -> None:
    path = tmp_path_factory.getbasetemp() / "config.json"
    config.save(cfg, path)
    assert config.load(Outer, path) == cfg


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config.save(Outer(name="a"), path)
    config.save(Outer(name="b"), path)
    assert config.load(Outer, path).name == "b"
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_that_json_cannot_hold_damages_no_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config.save(Outer(name="a"), path)
    with pytest.raises(ValueError, match="JSON compliant"):
        config.save(Outer(name="b", scale=float("nan")), path)
    assert config.load(Outer, path).name == "a"


@pytest.mark.parametrize(
    ("d", "message"),
    [
        ({"nmae": "a"}, "did you mean 'name'"),
        ({"name": "a", "inner": {"widht": 3}}, "did you mean 'width'"),
        ({"name": "a", "layers": [{"sise": 3}]}, "layers has no such key; got 'sise'; did you mean 'size'"),
        ({}, "Outer needs name"),
        ({"name": 3}, "name must be str"),
        ({"name": "a", "on": 1}, "on must be bool"),
        ({"name": "a", "inner": {"width": True}}, "inner.width must be int"),
        ({"name": "a", "inner": {"width": 2.5}}, "inner.width must be int"),
        ({"name": "a", "inner": {"width": math.inf}}, "inner.width must be int"),
        ({"name": "a", "scale": math.nan}, "scale must be float"),
        ({"name": "a", "inner": {"size": [1, 2, 3]}}, "inner.size must have 2 entries"),
        ({"name": "a", "inner": {"kind": "flwo"}}, "must be one of 'flow', 'bits'"),
        ({"name": "a", "inner": 3}, "inner must be an object"),
        ({"name": "a", "scale": "x"}, "scale must be float"),
        ({"name": "a", "weights": {"b": "x"}}, "weights.b must be float"),
    ],
)
def test_what_does_not_fit_is_named(d: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.from_dict(Outer, d)


def test_override_reads_text_by_the_type_of_the_field() -> None:
    changes = {"inner.width": "3", "inner.rates": "[1, 2.5]", "on": "true", "scale": "1e-3", "name": "17"}
    cfg = config.override(Outer(name="a"), changes)
    assert cfg == Outer(name="17", on=True, scale=1e-3, inner=Inner(width=3, rates=(1.0, 2.5)))


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("1.", 1.0), ("+2", 2.0), ("1e-3", 0.001)])
def test_override_reads_numbers_as_people_write_them(text: str, value: float) -> None:
    assert config.override(Outer(name="a"), {"scale": text}).scale == value


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1,5", ""])
def test_override_refuses_what_is_no_finite_number(text: str) -> None:
    with pytest.raises(ConfigError, match="scale"):
        config.override(Outer(name="a"), {"scale": text})


def test_override_takes_values_and_leaves_the_original_alone() -> None:
    cfg = Outer(name="a", scale=1.0)
    assert config.override(cfg, {"scale": None, "inner.size": (3, 4)}).inner.size == (3, 4)
    assert config.override(cfg, {"scale": "null"}).scale is None
    assert config.override(cfg, {"on": "True", "inner.kind": "bits"}).inner.kind == "bits"
    assert cfg == Outer(name="a", scale=1.0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("inner.widht", "3", "there is no field inner.widht.*did you mean 'width'"),
        ("iner.width", "3", "did you mean 'inner'"),
        ("name.width", "3", "leads into a field that has no fields"),
        ("inner.width", "wide", "inner.width must be int"),
        ("spare.width", "3", "leads into a field that has no fields"),
    ],
)
def test_override_of_what_is_not_there_is_named(path: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.override(Outer(name="a"), {path: value})


@pytest.mark.parametrize(("text", "message"), [("{", "must hold JSON"), ("[]", "one JSON object")])
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(Outer, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be readable"):
        config.load(Outer, tmp_path / "none.json")


def test_only_dataclasses_of_json_values_become_dicts() -> None:
    with pytest.raises(ConfigError, match="dataclass instance"):
        config.to_dict({"a": 1})
    with pytest.raises(ConfigError, match="name must be a JSON value"):
        config.to_dict(Outer(name=object()))  # type: ignore[arg-type]
