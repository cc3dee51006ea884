"""ZMTP 3, the protocol below ZeroMQ's sockets, as a server needs it: every byte that is held has a bound.

ZeroMQ's own ROUTER keeps an unfinished message, and replies that nobody reads, without any.
"""

from worldsim.bridge.wire.zmtp.connection import Connection, DisconnectError
from worldsim.bridge.wire.zmtp.listener import Listener
from worldsim.bridge.wire.zmtp.memory_budget import MemoryBudget, Reservation

__all__ = ["Connection", "DisconnectError", "Listener", "MemoryBudget", "Reservation"]
