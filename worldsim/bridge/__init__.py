"""Serving: other programs step worlds over ZeroMQ, as ``docs/protocol.md`` specifies."""

from worldsim.errors import DependencyError, install

try:
    import msgpack
    import zmq
except ModuleNotFoundError as _error:
    raise DependencyError(f"worldsim.bridge needs {_error.name}", None, install("bridge")) from _error

__all__: list[str] = []
del msgpack, zmq
