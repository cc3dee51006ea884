"""Learners: reinforcement learning inside a world. Each is a script that runs by itself and may be copied."""
