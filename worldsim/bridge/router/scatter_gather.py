"""Scatter and gather: requests to several engines, and their joined replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldsim.bridge.wire.protocol import Code, Message, error_body, parse_error
from worldsim.errors import BridgeError

__all__ = ["GatheredReplies", "Replies", "error_item", "join_steps", "split_items", "sum_info", "unavailable"]

Replies = list[tuple[Any, Message]]
"""Successful replies of several engines, each with its tag."""

_SUMMED = ("sessions", "offloaded", "slots", "free", "waiting")


class GatheredReplies:
    """Replies of several engines, passed on once all have arrived.

    Args:
        count: of engines that were asked.
        on_success: takes the replies if all of them are good.
        on_error: takes the error of one that is not; an engine that has ended says ask again.
    """

    def __init__(
        self, count: int, *, on_success: Callable[[Replies], None], on_error: Callable[[BridgeError], None]
    ) -> None:
        self._missing, self._on_success, self._on_error = count, on_success, on_error
        self._replies: Replies = []
        self._error: BridgeError | None = None

    def of(self, tag: object) -> Callable[[Message | None], None]:
        """Return the handler of the reply with ``tag``."""

        def take(reply: Message | None) -> None:
            self._missing -= 1
            if reply is None:
                self._error = unavailable("a session's engine must be ready", 500)
            elif not reply.header["ok"]:
                self._error = parse_error(reply.header["error"])
            else:
                self._replies.append((tag, reply))
            if self._missing:
                return
            if self._error is None:
                self._on_success(self._replies)
            else:
                self._on_error(self._error)

        return take


def unavailable(rule: str, wait: float) -> BridgeError:
    """Return an ``UNAVAILABLE`` error, to be retried after ``wait`` milliseconds."""
    return BridgeError(rule, None, "try again later", code=Code.UNAVAILABLE, retry_after_ms=wait)


def split_items(items: Sequence[Any], engine_of: Mapping[str, int]) -> tuple[dict[int, list[int]], list[int]]:
    """Return positions of a ``step_many``'s items by engine, and those of unplaced sessions."""
    parts: dict[int, list[int]] = {}
    missing = []
    for position, item in enumerate(items):
        name = item.get("session") if isinstance(item, dict) else None
        engine = engine_of.get(name) if isinstance(name, str) else None
        if engine is None:
            missing.append(position)
        else:
            parts.setdefault(engine, []).append(position)
    return parts, missing


def join_steps(
    count: int, parts: Replies, missing: Mapping[int, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Join the answered parts of a ``step_many``: its items and payloads.

    Args:
        count: items of the request.
        parts: positions and reply of each part that succeeded as a whole.
        missing: rows of the other items.
    """
    rows: dict[int, dict[str, Any]] = dict(missing)
    frames: dict[int, bytes] = {}
    for positions, reply in parts:
        items = reply.header["items"]
        rows.update(zip(positions, items, strict=True))
        if reply.payloads:
            good = [(at, item["step"]) for at, item in zip(positions, items, strict=True) if "step" in item]
            frames.update(_split_frames(good, memoryview(reply.payloads[0])))
    order = range(count)
    seen = any(reply.payloads for _, reply in parts)
    joined = b"".join(frames[position] for position in order if position in frames)
    return [rows[position] for position in order], [joined] if seen else []


def sum_info(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum the ``info`` of several engines."""
    total = {**infos[0], **{name: sum(info[name] for info in infos) for name in _SUMMED}}
    means = [info["batch_mean"] for info in infos if info["batch_mean"] is not None]
    total["batch_mean"] = round(sum(means) / len(means), 3) if means else None
    for name in ("step_p50_ms", "step_p99_ms"):
        total[name] = max((info[name] for info in infos if info[name] is not None), default=None)
    return {**total, "replicas": len(infos)}


def error_item(item: Any, error: BridgeError) -> dict[str, Any]:
    """Return the error item of a session without an engine."""
    name = item.get("session") if isinstance(item, dict) else None
    return {**({"session": name} if isinstance(name, str) else {}), "error": error_body(error)}


def _split_frames(steps: Sequence[tuple[int, dict[str, Any]]], payload: memoryview) -> dict[int, bytes]:
    """Split a payload into the frames of its steps; JPEGs have a length each."""
    even = payload.nbytes // len(steps) if steps else 0
    frames, at = {}, 0
    for position, step in steps:
        size = step.get("bytes", even)
        frames[position] = bytes(payload[at : at + size])
        at += size
    return frames
