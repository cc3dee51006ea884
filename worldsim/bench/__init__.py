"""How fast a world is on this machine, and how much of the machine that takes."""
