"""From recorded frames to a world."""
