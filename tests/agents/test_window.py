"""The window itself, on SDL's invisible screen: every key, every overlay, every size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pygame
import pytest

from worldsim.agents.human.commands import COMMANDS
from worldsim.agents.human.display import NoDisplay
from worldsim.agents.human.help import help_columns
from worldsim.agents.human.keymap import Keymap, default_keymap
from worldsim.agents.human.player import WorldPlayer
from worldsim.agents.human.window import Window
from worldsim.controls import Control, ControlSpace
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import ConfigError

Make = Callable[..., WorldPlayer]
KEYMAP = default_keymap(DOOM_KEYS)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return tmp_path


class Hands:
    """Someone at the keyboard: each line of the script is done before a turn of the loop."""

    def __init__(self, window: Window, script: Iterator[Any]) -> None:
        self.window = window
        self._turn = window._turn
        self._script = script
        window._turn = self.turn  # type: ignore[method-assign]

    def turn(self) -> None:
        if next(self._script, "end") == "end":
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        self._turn()


def key(name: str, down: bool = True) -> None:
    kind = pygame.KEYDOWN if down else pygame.KEYUP
    pygame.event.post(pygame.event.Event(kind, key=pygame.key.key_code(name)))


def press(name: str) -> None:
    key(name)
    key(name, down=False)


def play(player: WorldPlayer, script: Callable[[Window], Iterator[Any]], **options: Any) -> None:
    """Run a window whose person does what the script does between its yields."""
    options.setdefault("fps", 0)
    options.setdefault("scale", 3)
    with Window.opened("doom-maze") as window:
        Hands(window, script(window))
        window.run(player, options.pop("keymap", KEYMAP), **options)


def test_held_keys_walk_and_taps_count(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        key("w")
        yield
        yield
        key("w", down=False)
        press("left")
        yield
        yield

    play(player, script)
    keys = [set(control.keys) for control in player.branch.trajectory.controls]
    assert keys[:4] == [{"forward"}, {"forward"}, {"turn_left"}, set()]


def strike(place: int, label: int, down: bool = True) -> None:
    """A key as a keyboard with some layout sends it: its place, and what the layout makes of it."""
    kind = pygame.KEYDOWN if down else pygame.KEYUP
    pygame.event.post(pygame.event.Event(kind, key=label, scancode=place))


LAYOUTS = {
    "us": (pygame.K_w, pygame.K_a),
    "french": (pygame.K_z, pygame.K_q),
    "russian": (ord("ц"), ord("ф")),
    "dvorak": (pygame.K_COMMA, pygame.K_a),
    "unknown": (0, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_walk_by_their_place_under_any_layout(player: WorldPlayer, layout: str) -> None:
    forward, left = LAYOUTS[layout]

    def script(window: Window) -> Iterator[None]:
        strike(pygame.KSCAN_W, forward)
        yield
        strike(pygame.KSCAN_A, left)
        yield
        strike(pygame.KSCAN_W, forward, down=False)
        strike(pygame.KSCAN_A, left, down=False)
        yield
        yield

    play(player, script)
    held = [set(control.keys) for control in player.branch.trajectory.controls]
    assert held[:3] == [{"forward"}, {"forward", "strafe_left"}, set()]


def test_commands_are_found_by_their_place_too(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        strike(pygame.KSCAN_P, ord("з"))
        strike(pygame.KSCAN_P, ord("з"), down=False)
        yield
        assert player.paused

    play(player, script)


def test_a_key_that_is_held_while_the_layout_switches_comes_up(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        strike(pygame.KSCAN_W, pygame.K_w)
        yield
        strike(pygame.KSCAN_W, ord("ц"), down=False)
        yield
        yield
        # A key without a place here is known by its label, and comes up as what it went down as.
        strike(500, pygame.K_w)
        yield
        strike(500, pygame.K_z, down=False)
        yield
        yield

    play(player, script)
    assert [set(control.keys) for control in player.branch.trajectory.controls][:6] == [
        {"forward"}, set(), set(), {"forward"}, set(), set(),
    ]  # fmt: skip


def test_a_label_counts_where_its_place_means_nothing(player: WorldPlayer) -> None:
    steps = player.engine.denoising_steps

    def script(window: Window) -> Iterator[None]:
        strike(pygame.KSCAN_RIGHTBRACKET, pygame.K_PLUS)  # as on a German keyboard
        yield

    play(player, script)
    assert player.engine.denoising_steps > steps


def test_help_lists_only_what_there_is(player: WorldPlayer, make_player: Make) -> None:
    space = player.world.spec.control_space
    blind = ControlSpace(keys=("axis0_minus", "axis0_plus"), yaw=False, pose=False, discrete_actions=((),))
    keymap = default_keymap(blind.keys)
    for known, keys, here in ((space, KEYMAP, True), (blind, keymap.without(("mouse", "compare")), False)):
        rows = [row for _, rows in help_columns(known, keys) for row in rows]
        assert all(labels for labels, _ in rows)
        texts = " ".join(text for _, text in rows)
        assert ("look, after a click" in texts) == here
        assert ("real engine" in texts) == here
        assert ("let go of the mouse" in texts.replace("let go of the mouse; twice", "")) == here
    bare = make_player(open_reference=None)
    assert "compare" in bare.lacking


@pytest.mark.slow
def test_every_command_can_be_pressed_whatever_is_shown(player: WorldPlayer, somewhere: Path) -> None:
    names = [name for name in KEYMAP.commands if KEYMAP.commands[name] not in ("quit", "fullscreen")]

    def script(window: Window) -> Iterator[None]:
        for around in ("f2", "f", "c", "m"):
            press(around)
            for name in names:
                press(name)
                yield
                yield
        press("f11")
        yield
        press("f11")
        yield

    play(player, script)
    assert {path.suffix for path in somewhere.iterdir()} == {".mp4", ".png"}


def test_every_command_is_understood(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        for command in COMMANDS:
            if command.name not in ("quit", "rewind") and not command.name.startswith("slot_"):
                assert (
                    hasattr(window, f"_do_{command.name}")
                    or hasattr(player, f"_do_{command.name}")
                    or (command.name == "step")
                )
        yield

    play(player, script)


def test_holding_r_goes_back(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        yield from (None for _ in range(10))
        key("r")
        yield from (None for _ in range(6))
        key("r", down=False)
        press("p")
        yield

    play(player, script)
    assert 3 <= player.branch.session.index <= 5


def test_the_world_waits_while_help_is_read(player: WorldPlayer) -> None:
    seen: list[int] = []

    def script(window: Window) -> Iterator[None]:
        yield
        press("f1")
        yield
        seen.append(player.branch.session.index)
        yield from (None for _ in range(5))
        seen.append(player.branch.session.index)
        press("n")  # any command closes the help, and does no more than that
        yield
        seen.append(player.branch.start)

    play(player, script)
    assert seen[0] == seen[1]
    assert seen[2] == 0


def test_escape_lets_go_then_asks_then_leaves(player: WorldPlayer) -> None:
    turns: list[str] = []

    def script(window: Window) -> Iterator[None]:
        press("g")
        yield
        assert window._mouse
        for said in ("mouse", "asked"):
            press("escape")
            yield
            turns.append(said)
            assert not window._mouse
        press("escape")
        yield
        turns.append("never")  # the loop has ended by now

    play(player, script)
    assert turns == ["mouse", "asked"]


def test_the_mouse_turns_right_when_it_goes_right(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        at = window._layout().pictures[0]
        pygame.event.post(
            pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=(at.x + at.w // 2, at.y + at.h // 2))
        )
        yield
        assert window._mouse
        pygame.event.post(pygame.event.Event(pygame.MOUSEMOTION, rel=(25, 3), pos=(0, 0), buttons=(0, 0, 0)))
        yield

    play(player, script)
    assert pytest.approx(25 * KEYMAP.sensitivity) in [
        control.yaw for control in player.branch.trajectory.controls
    ]


def test_a_world_without_mouse_look_says_so(make_player: Make) -> None:
    player = make_player()
    object.__setattr__(player.world.spec.control_space, "yaw", False)

    def script(window: Window) -> Iterator[None]:
        press("g")
        yield
        assert not window._mouse

    play(player, script)


def test_losing_the_keyboard_lets_go_of_everything(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        key("w")
        press("g")
        yield
        pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
        yield
        assert not window._mouse
        yield

    play(player, script)
    assert player.branch.trajectory.controls[0] == Control(keys={"forward"})
    assert player.branch.trajectory.controls[-1] == Control()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(480, 360), (700, 1000), (1500, 500), (2600, 1500)])
@pytest.mark.parametrize("frame", [(12, 16), (60, 80)])
def test_it_draws_at_any_size(make_player: Make, size: tuple[int, int], frame: tuple[int, int]) -> None:
    player = make_player(frame)

    def script(window: Window) -> Iterator[None]:
        window._size = size
        window._set_mode()
        for name in ("c", "f", "f5", "f1"):
            press(name)
            yield
            yield
        picture = pygame.surfarray.array3d(window._screen)
        assert picture.shape[:2] == size
        assert picture.std() > 3

    play(player, script)


def test_pixels_are_crisp(make_player: Make) -> None:
    player = make_player((12, 16))

    def script(window: Window) -> Iterator[None]:
        press("p")
        yield
        yield
        layout = window._layout()
        at, scale = layout.pictures[0], int(layout.scale)
        assert layout.scale == scale
        shown = pygame.surfarray.array3d(window._screen).swapaxes(0, 1)[
            at.y : at.y + at.h, at.x : at.x + at.w
        ]
        np.testing.assert_array_equal(shown[::scale, ::scale], player.branch.session.frame)
        np.testing.assert_array_equal(
            shown[scale - 1 :: scale, scale - 1 :: scale], player.branch.session.frame
        )

    play(player, script)


def test_recording_goes_from_the_first_frame_to_the_file_that_was_named(
    player: WorldPlayer, somewhere: Path
) -> None:
    import av

    def script(window: Window) -> Iterator[None]:
        yield from (None for _ in range(6))

    play(player, script, record=somewhere / "walk.mp4")
    with av.open(str(somewhere / "walk.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == player.branch.session.index


def test_the_world_goes_no_faster_than_its_pace(player: WorldPlayer) -> None:
    def script(window: Window) -> Iterator[None]:
        begun = pygame.time.get_ticks()
        while pygame.time.get_ticks() - begun < 400:
            yield

    play(player, script, fps=40.0)
    assert 1 <= player.branch.session.index <= 18  # a busy machine may be slower, none is faster


def test_keys_that_pygame_does_not_know_are_told(player: WorldPlayer) -> None:
    with pytest.raises(ConfigError, match="spacebar"):
        play(player, lambda window: iter([None]), keymap=Keymap({"spacebar": "forward"}, {}))


def test_every_default_key_is_known_to_pygame(player: WorldPlayer) -> None:
    play(player, lambda window: iter([None]))  # raises where one is not
    assert KEYMAP.keys
    assert KEYMAP.commands


def test_no_screen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    with pytest.raises(NoDisplay), Window.opened("doom-maze"):
        pass


@pytest.mark.skipif(
    not all(map(shutil.which, ("Xvfb", "xvfb-run", "xdotool"))), reason="needs Xvfb, xvfb-run and xdotool"
)
def test_a_real_key_on_a_real_screen(somewhere: Path) -> None:
    """Under a display server that nobody looks at: a key pressed by xdotool walks, Escape twice leaves."""
    code = """
        import worldsim
        from tests.agents.fake_engine import fake_world
        from worldsim.agents.human import play
        from worldsim.agents.human.player import WorldPlayer
        vars(worldsim)["load"] = lambda name, device: fake_world((60, 80))
        close = WorldPlayer.close
        def tell(player):
            print(sum("forward" in control.keys for control in player.branch.trajectory.controls), flush=True)
            close(player)
        WorldPlayer.close = tell
        raise SystemExit(play.main(["--scale", "2"]))
    """
    driver = """
        "$1" -c "$2" & game=$!
        for i in $(seq 200); do xdotool search --class worldsim >/dev/null 2>&1 && break; sleep 0.1; done
        sleep 3; xdotool keydown w; sleep 2; xdotool keyup w
        for i in $(seq 50); do
            kill -0 $game 2>/dev/null || break
            xdotool key Escape; sleep 0.3; xdotool key Escape; sleep 0.3
        done
        wait $game
    """
    line = ["xvfb-run", "-a", "sh", "-c", driver, "sh", sys.executable, textwrap.dedent(code)]
    environ = {name: value for name, value in os.environ.items() if name != "SDL_VIDEODRIVER"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        line, env=environ | {"PYTHONPATH": root}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 1
