"""ZMTP 3, the protocol below ZeroMQ's sockets, as a server needs it: every byte that is held has a bound.

ZeroMQ's own ROUTER keeps an unfinished message, and replies that nobody reads, without any.
"""

from worldsim.bridge.zmtp.connection import Connection, CutError
from worldsim.bridge.zmtp.listener import Listener
from worldsim.bridge.zmtp.pool import Charge, Pool

__all__ = ["Charge", "Connection", "CutError", "Listener", "Pool"]
