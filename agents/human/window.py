"""The window: pygame's events in, pictures out. What the commands mean is the player's business."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pygame

from worldsim.agents.human import display
from worldsim.agents.human.headless import film
from worldsim.agents.human.help import draw_help
from worldsim.agents.human.hud import Status
from worldsim.agents.human.inputs import Inputs
from worldsim.agents.human.keyboard import Keyboard
from worldsim.agents.human.keymap import Keymap
from worldsim.agents.human.layout import WindowLayout, arrange, interface_scale, window_size
from worldsim.agents.human.pacing import Pacer
from worldsim.agents.human.painter import Painter, TextCache
from worldsim.agents.human.player import Notice, WorldPlayer
from worldsim.agents.human.recordings import Recordings, free_name
from worldsim.agents.human.scene import draw_hints, draw_recording, draw_scene, draw_splash, icon
from worldsim.agents.human.toast import Toast
from worldsim.errors import ConfigError, WorldsimError

REDRAW = 1 / 15  # seconds between drawings where no new frame came
FASTER_BACK = 1.5  # seconds of rewinding until it goes faster
TWICE = 2.0  # seconds within which a second "quit" leaves
FINEST_STEPS = (480, 360)


class Window:
    """A window in which a player is walked.

    ``opened`` makes one, ``run`` stays in it until the person leaves.
    """

    def __init__(self, title: str) -> None:
        self._texts = TextCache()
        self._inputs, self._keyboard = Inputs(), Keyboard()
        self._toast = Toast()
        self._size = window_size((120, 160), 5)
        self._fullscreen = False
        self._whole = True
        self._panel = True
        self._help = False
        self._mouse = False
        self._done = False
        self._rewind_since: float | None = None
        self._quit_at = -TWICE
        pygame.display.set_icon(icon(64))
        pygame.display.set_caption(f"loading {title}")
        self._set_mode()
        draw_splash(self._painter(), self._screen.get_size(), f"loading {title}")
        pygame.display.flip()
        pygame.event.pump()

    @classmethod
    @contextmanager
    def opened(cls, title: str) -> Iterator[Window]:
        """A window that is closed at the end. Raises NoDisplay where none can be opened."""
        os.environ["SDL_VIDEO_X11_WMCLASS"] = "worldsim"  # pygame names windows after the script otherwise
        try:
            pygame.display.init()
            display.check_driver(pygame.display.get_driver())
            window = cls(title)
        except pygame.error as error:
            pygame.quit()
            raise display.NoDisplay(str(error)) from error
        try:
            yield window
        finally:
            pygame.quit()

    def run(
        self,
        player: WorldPlayer,
        keymap: Keymap,
        *,
        fps: float | None = None,
        scale: int | None = None,
        fullscreen: bool = False,
        record: Path | None = None,
        prefix: str = "play",
    ) -> None:
        """Walk until the person leaves.

        ``fps`` None is the world's own pace, 0 none; ``record`` records from the first frame on.

        Raises ConfigError for keys that pygame does not know.
        """
        _check_keys(keymap)
        pace = player.world.spec.fps if fps is None else fps
        self._player, self._keymap, self._fps, self._pacer = player, keymap, pace, Pacer(pace)
        player.frame_seconds = 1 / pace if pace else None
        self._shown = keymap.without(player.lacking)
        self._recordings = Recordings(prefix, player.world.spec.fps)
        pygame.display.set_caption(f"worldsim: {player.world.name}")
        self._size = _comfortable(player.world.spec.size, scale)
        self._fullscreen = fullscreen
        self._set_mode()
        if not fullscreen:
            _centre(self._size)
        if record is not None:
            self._tell(f"Recording to {self._recordings.start(record)}", "good")
        try:
            while not self._done:
                self._turn()
        finally:
            self._recordings.stop()

    # -- one turn of the loop

    def _turn(self) -> None:
        for event in pygame.event.get():
            self._handle(event)
        due = self._pacer.wait(time.perf_counter())
        if due <= 0:
            self._beat()
            self._pacer.beat(time.perf_counter())
            self._draw()
        else:
            pygame.time.wait(max(min(round(1000 * min(due, REDRAW)), 8), 1))
            self._redraw_if_due()

    def _beat(self) -> None:
        """One frame of time, forwards or backwards."""
        control = self._inputs.control(self._keymap, self._player.world.spec.control_space)
        if self._help:
            moved = False
        elif self._rewinding():
            moved = self._player.rewind(self._rewind_speed())
        else:
            self._rewind_since = None
            moved = self._player.tick(control)
        while self._player.notices:
            self._toast.show(self._player.notices.popleft(), time.perf_counter())
        if moved and self._recordings.path is not None:
            self._record_frame()

    def _rewinding(self) -> bool:
        return any(self._keymap.commands.get(key) == "rewind" for key in self._inputs.down)

    def _rewind_speed(self) -> int:
        now = time.perf_counter()
        self._rewind_since = self._rewind_since or now
        return 1 + int((now - self._rewind_since) / FASTER_BACK)

    # -- events

    def _handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            self._done = True
        elif event.type == pygame.KEYDOWN:
            self._key(self._keyboard.pressed(event, self._keymap))
        elif event.type == pygame.KEYUP:
            self._inputs.release(self._keyboard.released(event))
        elif event.type == pygame.MOUSEMOTION and self._mouse:
            self._inputs.move(event.rel[0])
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
            self._click(event.pos)
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._inputs.let_go()
            self._keyboard.let_go()
            self._grab(False)
        elif event.type == pygame.VIDEORESIZE and not self._fullscreen:
            self._size = (max(event.w, FINEST_STEPS[0]), max(event.h, FINEST_STEPS[1]))

    def _key(self, key: str) -> None:
        command = self._keymap.commands.get(key)
        if command is None:
            self._inputs.press(key)
        elif self._help and command not in ("help", "quit", "fullscreen", "screenshot"):
            self._help = False
        elif command == "rewind":
            self._inputs.press(key)
        elif hasattr(self, f"_do_{command}"):
            getattr(self, f"_do_{command}")()
        else:
            human = self._inputs.control(self._keymap, self._player.world.spec.control_space)
            before = self._player.branch.trajectory
            self._player.do(command, human)
            if (
                command == "step"
                and self._recordings.path is not None
                and before is self._player.branch.trajectory
            ):
                self._record_frame()

    def _click(self, at: tuple[int, int]) -> None:
        if self._help:
            self._help = False
        elif not self._mouse and any(pygame.Rect(rect).collidepoint(at) for rect in self._layout().pictures):
            self._do_mouse()

    # -- the window's own commands

    def _do_help(self) -> None:
        self._help = not self._help
        self._inputs.let_go()
        self._player.stats.pause()

    def _do_quit(self) -> None:
        now = time.perf_counter()
        if self._help:
            self._help = False
        elif self._mouse:
            self._grab(False)
        elif now - self._quit_at < TWICE:
            self._done = True
        else:
            self._quit_at = now
            self._tell("Once more to leave")

    def _do_mouse(self) -> None:
        if not self._player.world.spec.control_space.yaw:
            self._tell("This world does not know mouse look")
            return
        self._grab(not self._mouse)
        self._tell(
            "The mouse looks around; " + self._key_of("quit") + " lets it go"
            if self._mouse
            else "The mouse is free"
        )

    def _do_scaling(self) -> None:
        self._whole = not self._whole
        self._tell("Whole-number pixels" if self._whole else "As large as it fits")

    def _do_panel(self) -> None:
        self._panel = not self._panel

    def _do_fullscreen(self) -> None:
        self._fullscreen = not self._fullscreen
        self._set_mode()

    def _do_screenshot(self) -> None:
        path = free_name(self._recordings.prefix, ".png")
        self._draw()
        try:
            pygame.image.save(self._screen, str(path))
        except (pygame.error, OSError) as error:
            self._tell(f"No screenshot: {error}", "bad")
        else:
            self._tell(f"Screenshot in {path}", "good")

    def _do_record(self) -> None:
        if self._recordings.path is not None:
            frames = self._recordings.frames
            self._tell(f"{frames} frames recorded in {self._recordings.stop()}", "good")
            return
        try:
            self._tell(f"Recording to {self._recordings.start()}", "good")
        except WorldsimError as error:
            self._tell(str(error), "bad")

    # -- drawing

    def _draw(self) -> None:
        painter, layout, now = self._painter(), self._layout(), time.perf_counter()
        status = self._status()
        draw_scene(painter, layout, self._player, status)
        if not self._toast.draw(painter, layout.footer, now):
            draw_hints(painter, layout.footer, status)
        if status.recorded is not None:
            draw_recording(painter, layout.footer, status.recorded)
        if self._help:
            draw_help(painter, self._screen.get_size(), self._player.world.spec.control_space, self._shown)
        pygame.display.flip()
        self._drawn = now

    def _redraw_if_due(self) -> None:
        if time.perf_counter() - self._drawn >= REDRAW:
            self._draw()

    def _status(self) -> Status:
        recorded = self._recordings.frames if self._recordings.path is not None else None
        return Status(self._fps, self._shown, self._rewinding(), recorded, self._mouse)

    def _layout(self) -> WindowLayout:
        count = len(self._player.branches) + (self._player.reference is not None)
        return arrange(self._screen.get_size(), self._player.world.spec.size, count, self._panel, self._whole)

    def _painter(self) -> Painter:
        return Painter(self._screen, interface_scale(self._screen.get_size()), self._texts)

    # -- helpers

    def _set_mode(self) -> None:
        if self._fullscreen:
            self._screen = pygame.display.set_mode((0, 0), pygame.FULLSCREEN)
        else:
            self._screen = pygame.display.set_mode(self._size, pygame.RESIZABLE)

    def _grab(self, grab: bool) -> None:
        self._mouse = grab
        pygame.event.set_grab(grab)
        pygame.mouse.set_visible(not grab)
        pygame.mouse.set_relative_mode(grab)

    def _record_frame(self) -> None:
        try:
            self._recordings.add(film(self._player))
        except (WorldsimError, OSError) as error:
            self._recordings.stop()
            self._tell(f"Recording stopped. {error}", "bad")

    def _key_of(self, command: str) -> str:
        return next(iter(self._keymap.keys_for(command)), command)

    def _tell(self, text: str, kind: str = "info") -> None:
        self._toast.show(Notice(text, kind), time.perf_counter())


def _comfortable(frame: tuple[int, int], scale: int | None) -> tuple[int, int]:
    """The window's size: at the scale asked for, or the largest that leaves some of the desktop free."""
    if scale is not None:
        return window_size(frame, scale)
    desktop = pygame.display.get_desktop_sizes()[0]
    fitting = [s for s in range(1, 33) if _fits(window_size(frame, s), desktop)]
    return window_size(frame, max(fitting, default=1))


def _centre(size: tuple[int, int]) -> None:
    desktop = pygame.display.get_desktop_sizes()[0]
    pygame.display.set_window_position((max(desktop[0] - size[0], 0) // 2, max(desktop[1] - size[1], 0) // 2))


def _fits(window: tuple[int, int], desktop: tuple[int, int]) -> bool:
    return window[0] <= 0.88 * desktop[0] and window[1] <= 0.88 * desktop[1]


def _check_keys(keymap: Keymap) -> None:
    for key in (*keymap.keys, *keymap.commands):
        try:
            pygame.key.key_code(key)
        except ValueError as error:
            raise ConfigError(
                "a keymap names keys as pygame does", key, 'for example "w", "left", "space", "f5"'
            ) from error
