"""Client of ``worldsim serve``, without torch."""

from worldsim.bridge.client.client import Client
from worldsim.bridge.client.errors import (
    DeadlineExceededError,
    OutOfOrderError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnansweredError,
    UnavailableError,
    UnknownSessionError,
)
from worldsim.bridge.client.keys import ClientKeys
from worldsim.bridge.client.session import RemoteSession
from worldsim.bridge.client.step import RemoteStep
from worldsim.bridge.client.world import RemoteWorld

__all__ = [
    "Client",
    "ClientKeys",
    "DeadlineExceededError",
    "OutOfOrderError",
    "PermissionDeniedError",
    "RemoteSession",
    "RemoteStep",
    "RemoteWorld",
    "ResourceExhaustedError",
    "UnansweredError",
    "UnavailableError",
    "UnknownSessionError",
]
