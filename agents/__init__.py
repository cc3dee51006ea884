"""Agents that act in a world: people (``human``), scripts, random keys, learners."""
