"""Encoding of replies into message parts."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from worldsim.bridge.server.requests import Answer, Envelope, Request, internal_error
from worldsim.bridge.wire.protocol import REPLY, Code, describe, encode, error_body
from worldsim.errors import BridgeError

__all__ = ["check_encodable", "encode_jpeg", "error_reply", "ok_reply", "reply_to"]

_JPEG_QUALITY = 92


def ok_reply(envelope: Envelope, values: dict[str, Any], payloads: Sequence[bytes] = ()) -> list[Any]:
    """Encode a successful reply."""
    return encode({**_head(envelope, ok=True), **values}, payloads, REPLY)


def error_reply(envelope: Envelope, error: BridgeError) -> list[Any]:
    """Encode an error reply."""
    return encode({**_head(envelope, ok=False), "error": error_body(error)}, bounds=REPLY)


def reply_to(request: Request) -> list[Any]:
    """Encode the reply to an answered request; ``INTERNAL`` if that fails."""
    try:
        return _items_reply(request) if request.many else _single_reply(request)
    except BridgeError as error:
        return error_reply(request.envelope, error)
    except Exception as error:
        logging.getLogger("worldsim").exception("an answer to %s could not be told", request.envelope.op)
        return error_reply(request.envelope, internal_error(error))


def check_encodable(answer: Answer) -> None:
    """Raise ``INTERNAL`` for a step that cannot be encoded; call it before writing the journal."""
    try:
        assert answer.step is not None, "only steps are told"
        encode(_step_fields(answer), bounds=REPLY)
        _encode_frame(answer, "jpeg")
    except Exception as error:
        raise internal_error(error) from error


def encode_jpeg(answer: Answer) -> bytes:
    """Return the frame of an answer as JPEG, encoded at most once."""
    if not answer.jpeg:
        assert answer.step is not None, "only steps are seen"
        file = io.BytesIO()
        Image.fromarray(answer.step.frame).save(file, "JPEG", quality=_JPEG_QUALITY)
        answer.jpeg.append(file.getvalue())
    return answer.jpeg[0]


def _head(envelope: Envelope, *, ok: bool) -> dict[str, Any]:
    head: dict[str, Any] = {"op": envelope.op, "id": envelope.id, "ok": ok}
    if envelope.trace is not None:
        head["trace"] = envelope.trace
    return head


def _single_reply(request: Request) -> list[Any]:
    answer = request.answers[0]
    if not isinstance(answer, Answer):
        assert answer is not None, "every task was answered"
        raise answer
    head = _head(request.envelope, ok=True)
    if answer.blob is not None:
        return encode(head, [answer.blob], REPLY)
    if answer.step is None:
        return encode(head, bounds=REPLY)
    row, picture = _step_fields(answer), _encode_frame(answer, request.codec)
    if picture is None:
        return encode({**head, "step": {**row, "frame": None}}, bounds=REPLY)
    if isinstance(picture, bytes):
        shape = list(answer.step.frame.shape)
        row["frame"] = {"codec": "jpeg", "shape": shape, "part": 0}
        return encode({**head, "step": row}, [picture], REPLY)
    row["frame"] = describe(picture)
    return encode({**head, "step": row}, [picture.data], REPLY)


def _items_reply(request: Request) -> list[Any]:
    """Encode a ``step_many`` or ``step_chunk`` reply; frames of all successful items are one payload."""
    items, pictures = [], []
    for task, answer in zip(request.tasks, request.answers, strict=True):
        name = {} if isinstance(task, BridgeError) else {"session": task.session}
        if isinstance(answer, Answer) and answer.step is not None:
            picture = _encode_frame(answer, request.codec)
            if picture is None and request.codec != "none":
                items.append({**name, "error": error_body(_frame_unavailable(answer.seq))})
                continue
            size = {"bytes": len(picture)} if isinstance(picture, bytes) else {}
            items.append({**name, "step": {**_step_fields(answer), **size}})
            pictures.append(picture)
        else:
            assert isinstance(answer, BridgeError), "every task was answered"
            items.append({**name, "error": error_body(answer)})
    head = {**_head(request.envelope, ok=True), "items": items}
    return encode(head, [] if request.codec == "none" else [_concatenated(pictures)], REPLY)


def _step_fields(answer: Answer) -> dict[str, Any]:
    step = answer.step
    assert step is not None, "only steps have rows"
    surprise = {} if step.surprise is None else {"surprise": step.surprise}
    return {
        "seq": answer.seq,
        "index": step.index,
        "pose": None if step.pose is None else step.pose.ravel().tolist(),
        "pose_given": step.pose_given,
        "reward": step.reward,
        "terminated": step.terminated,
        "uncertainty": step.uncertainty,
        "known": step.known,
        "denoising_steps": step.denoising_steps,
        **surprise,
    }


def _encode_frame(answer: Answer, codec: str) -> np.ndarray | bytes | None:
    """Return the frame in a codec; None if the step has none."""
    step = answer.step
    assert step is not None, "only steps are seen"
    if codec == "latent":
        return None if step.latent is None else np.ascontiguousarray(step.latent, "<f4")
    if codec == "none" or not step.frame.size:
        return None
    return encode_jpeg(answer) if codec == "jpeg" else np.ascontiguousarray(step.frame)


def _concatenated(pictures: Sequence[np.ndarray | bytes | None]) -> bytes:
    return b"".join(one.data if isinstance(one, np.ndarray) else one for one in pictures if one is not None)


def _frame_unavailable(seq: int) -> BridgeError:
    rule, remedy = (
        "a step must be asked for again with a codec that it has",
        "ask with the codec of the first time",
    )
    return BridgeError(rule, seq, remedy, code=Code.BAD_REQUEST)
