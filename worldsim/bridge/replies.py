"""Replies: what was answered, as the parts of a message."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from worldsim.bridge.protocol import REPLY, Code, describe, encode, error_body
from worldsim.bridge.requests import Answer, Envelope, Request, fault
from worldsim.errors import BridgeError

__all__ = ["accept", "check_tellable", "encode_picture", "refuse", "reply_to"]

_QUALITY = 92


def accept(envelope: Envelope, values: dict[str, Any], payloads: Sequence[bytes] = ()) -> list[Any]:
    """A reply that is ok."""
    return encode({**_head(envelope, ok=True), **values}, payloads, REPLY)


def refuse(envelope: Envelope, error: BridgeError) -> list[Any]:
    """A reply that is not."""
    return encode({**_head(envelope, ok=False), "error": error_body(error)}, bounds=REPLY)


def reply_to(request: Request) -> list[Any]:
    """The reply to a request that is answered; ``INTERNAL`` where it cannot be told."""
    try:
        return _many(request) if request.many else _one(request)
    except BridgeError as error:
        return refuse(request.envelope, error)
    except Exception as error:
        logging.getLogger("worldsim").exception("an answer to %s could not be told", request.envelope.op)
        return refuse(request.envelope, fault(error))


def check_tellable(answer: Answer) -> None:
    """Raises ``INTERNAL`` for a step that no reply can carry; to be asked before it is written down."""
    try:
        assert answer.step is not None, "only steps are told"
        encode(_row(answer), bounds=REPLY)
        _picture(answer, "jpeg")
    except Exception as error:
        raise fault(error) from error


def encode_picture(answer: Answer) -> bytes:
    """The frame of an answer as JPEG, encoded when it is asked for first."""
    if not answer.jpeg:
        assert answer.step is not None, "only steps are seen"
        file = io.BytesIO()
        Image.fromarray(answer.step.frame).save(file, "JPEG", quality=_QUALITY)
        answer.jpeg.append(file.getvalue())
    return answer.jpeg[0]


def _head(envelope: Envelope, *, ok: bool) -> dict[str, Any]:
    head: dict[str, Any] = {"op": envelope.op, "id": envelope.id, "ok": ok}
    if envelope.trace is not None:
        head["trace"] = envelope.trace
    return head


def _one(request: Request) -> list[Any]:
    answer = request.answers[0]
    if not isinstance(answer, Answer):
        assert answer is not None, "every task was answered"
        raise answer
    head = _head(request.envelope, ok=True)
    if answer.blob is not None:
        return encode(head, [answer.blob], REPLY)
    if answer.step is None:
        return encode(head, bounds=REPLY)
    row, picture = _row(answer), _picture(answer, request.codec)
    if picture is None:
        return encode({**head, "step": {**row, "frame": None}}, bounds=REPLY)
    if isinstance(picture, bytes):
        shape = list(answer.step.frame.shape)
        row["frame"] = {"codec": "jpeg", "shape": shape, "part": 0}
        return encode({**head, "step": row}, [picture], REPLY)
    row["frame"] = describe(picture)
    return encode({**head, "step": row}, [picture.data], REPLY)


def _many(request: Request) -> list[Any]:
    """The pictures of all that succeeded are one payload."""
    items, pictures = [], []
    for task, answer in zip(request.tasks, request.answers, strict=True):
        name = {} if isinstance(task, BridgeError) else {"session": task.session}
        if isinstance(answer, Answer) and answer.step is not None:
            picture = _picture(answer, request.codec)
            if picture is None and request.codec != "none":
                items.append({**name, "error": error_body(_unseen(answer.seq))})
                continue
            size = {"bytes": len(picture)} if isinstance(picture, bytes) else {}
            items.append({**name, "step": {**_row(answer), **size}})
            pictures.append(picture)
        else:
            assert isinstance(answer, BridgeError), "every task was answered"
            items.append({**name, "error": error_body(answer)})
    head = {**_head(request.envelope, ok=True), "items": items}
    return encode(head, [] if request.codec == "none" else [_joined(pictures)], REPLY)


def _row(answer: Answer) -> dict[str, Any]:
    step = answer.step
    assert step is not None, "only steps have rows"
    return {
        "seq": answer.seq,
        "index": step.index,
        "pose": None if step.pose is None else step.pose.ravel().tolist(),
        "pose_given": step.pose_given,
        "reward": step.reward,
        "terminated": step.terminated,
        "drift": step.drift,
        "known": step.known,
        "steps": step.steps,
    }


def _picture(answer: Answer, codec: str) -> np.ndarray | bytes | None:
    """What is seen, in a codec; None where there is no such thing."""
    step = answer.step
    assert step is not None, "only steps are seen"
    if codec == "latent":
        return None if step.latent is None else np.ascontiguousarray(step.latent, "<f4")
    if codec == "none" or not step.frame.size:
        return None
    return encode_picture(answer) if codec == "jpeg" else np.ascontiguousarray(step.frame)


def _joined(pictures: Sequence[np.ndarray | bytes | None]) -> bytes:
    return b"".join(one.data if isinstance(one, np.ndarray) else one for one in pictures if one is not None)


def _unseen(seq: int) -> BridgeError:
    rule, remedy = (
        "a step must be asked for again with a codec that it has",
        "ask with the codec of the first time",
    )
    return BridgeError(rule, seq, remedy, code=Code.BAD_REQUEST)
