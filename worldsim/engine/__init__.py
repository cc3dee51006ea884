"""Imagined worlds, many at once: worlds, sessions, snapshots."""
