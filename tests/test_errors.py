import copy

import pytest

from worldsim import errors
from worldsim.errors import ControlError, WorldsimError, nearest

KINDS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_worldsim_error_and_states_rule_value_and_remedy(kind: type[WorldsimError]) -> None:
    error = kind("a key must be known", "forwrad", "did you mean 'forward'?")
    assert isinstance(error, WorldsimError)
    assert str(error) == "a key must be known; got 'forwrad'; did you mean 'forward'?"


def test_parts_that_are_not_given_are_left_out() -> None:
    assert str(ControlError("a rule")) == "a rule"
    assert str(ControlError(rule="a rule", remedy="do this")) == "a rule; do this"
    assert str(ControlError("a rule", 0)) == "a rule; got 0"


def test_an_error_can_be_rebuilt_as_a_worker_process_hands_it_over() -> None:
    error = copy.copy(ControlError("a rule", 3, "do this"))
    assert isinstance(error, ControlError)
    assert (error.rule, error.value, error.remedy) == ("a rule", 3, "do this")


def test_nearest_names_the_closest_or_lists_all() -> None:
    assert nearest("forwrad", ["forward", "backward"]) == "did you mean 'forward'?"
    assert nearest("xyz", ["forward", "backward"]) == "choose from backward, forward"
    assert nearest("xyz", []) == "there are none to choose from"
