"""Policies that learn in a dream and act in the real game."""
