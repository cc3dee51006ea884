"""ZMTP 3, the protocol of ZeroMQ's sockets, server side, with bounded memory.

ZeroMQ's own ROUTER bounds neither unfinished messages nor unread replies.
"""

from worldsim.bridge.wire.zmtp.connection import Connection, DisconnectError
from worldsim.bridge.wire.zmtp.listener import Listener, listen
from worldsim.bridge.wire.zmtp.memory_budget import MemoryBudget, Reservation

__all__ = ["Connection", "DisconnectError", "Listener", "MemoryBudget", "Reservation", "listen"]
