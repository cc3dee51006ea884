"""Shipped worlds, one folder each; ``FOLDER`` is where they are, in a clone as in an installation."""

from pathlib import Path

FOLDER = Path(__file__).parent
