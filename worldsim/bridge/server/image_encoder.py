"""Encoder thread for the JPEGs of replies, so that neither the engine nor other replies wait for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from worldsim.bridge.server.replies import encode_jpeg
from worldsim.bridge.server.requests import Answer, Request

__all__ = ["ImageEncoder"]


class ImageEncoder:
    """Passes requests on once their JPEGs are encoded; others at once.

    Args:
        done: takes requests whose replies can be made; called from any thread.
    """

    def __init__(self, done: Callable[[list[Request]], None]) -> None:
        self._done = done
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="worldsim-pictures", daemon=True)
        self._thread.start()

    def put(self, requests: Sequence[Request]) -> None:
        """Queue answered requests; may be called from any thread."""
        plain = [request for request in requests if request.codec != "jpeg"]
        if plain:
            self._done(plain)
        for request in requests:
            if request.codec == "jpeg":
                self._inbox.put(request)

    def close(self) -> None:
        """Finish queued requests, and stop."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (request := self._inbox.get()) is not None:
            try:
                for answer in request.answers:
                    if isinstance(answer, Answer) and answer.step is not None and answer.step.frame.size:
                        encode_jpeg(answer)
            except Exception:  # the reply tells of it
                logging.getLogger("worldsim").exception("a picture could not be encoded")
            self._done([request])
