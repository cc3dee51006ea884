"""Walk through a learned world: ``python play.py [--world doom-maze]``; ``--help`` tells the rest."""

import sys

from worldsim.cli import main

if __name__ == "__main__":
    sys.exit(main(["play", *sys.argv[1:]]))
