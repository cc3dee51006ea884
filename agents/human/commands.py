"""Commands of the window, with their default keys and help texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: its name in a keymap, default keys (as pygame names them), help text and help column."""

    name: str
    keys: tuple[str, ...]
    help: str
    group: str


SLOTS = 5

COMMANDS: tuple[Command, ...] = (
    Command("pause", ("space", "p"), "pause and walk on", "Time"),
    Command("step", (".", "return"), "one frame, then pause", "Time"),
    Command("rewind", ("r",), "hold to go back in time", "Time"),
    Command("save", ("f5",), "save this moment in the slot", "Time"),
    Command("restore", ("f9",), "go back to the saved moment", "Time"),
    *(Command(f"slot_{i}", (str(i),), f"use slot {i}", "Time") for i in range(1, SLOTS + 1)),
    Command("fork", ("f",), "two futures side by side, and back to one", "World"),
    Command("focus", ("tab",), "steer the other future", "World"),
    Command("next_start", ("n",), "next place to start from", "World"),
    Command("previous_start", ("b",), "place before", "World"),
    Command("restart", ("backspace",), "the same start again", "World"),
    Command("reseed", ("x",), "the same start, dreamt with a new seed", "World"),
    Command("compare", ("c",), "the real engine beside the dream", "World"),
    Command("driver", ("m",), "hand over: you, explorer, random, policy", "World"),
    Command("more_steps", ("=", "+", "[+]"), "more denoising steps (K): finer", "World"),
    Command("fewer_steps", ("-", "[-]"), "fewer steps: faster", "World"),
    Command("hotter", ("page up",), "more chance (temperature)", "World"),
    Command("cooler", ("page down",), "less chance", "World"),
    Command("next_unit", ("u",), "another unit of the world: cube, key frames, ...", "World"),
    Command("record", ("f10",), "start and stop a video", "Window"),
    Command("screenshot", ("f12",), "picture of the window", "Window"),
    Command("mouse", ("g",), "take or let go of the mouse", "Window"),
    Command("scaling", ("f3",), "whole-number or largest scale", "Window"),
    Command("panel", ("f2",), "show or hide the panel", "Window"),
    Command("fullscreen", ("f11",), "fullscreen", "Window"),
    Command("help", ("f1", "h"), "this help", "Window"),
    Command("quit", ("escape",), "let go of the mouse; twice: leave", "Window"),
)

NAMES = tuple(command.name for command in COMMANDS)
