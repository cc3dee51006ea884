"""The wire: other programs step worlds over ZeroMQ; ``docs/protocol.md`` says how."""
