"""Worlds as Gymnasium environments, and the real environments that worlds are learnt from."""
