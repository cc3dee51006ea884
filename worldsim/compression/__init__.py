"""Compression of recorded play: a world's bits, arithmetic-coded by the world's own probabilities."""
