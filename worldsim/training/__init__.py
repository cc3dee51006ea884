"""Training: from recorded frames to a world."""
