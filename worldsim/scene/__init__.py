"""The static scene: what never moves, where cameras can go in it, and which poses it covers."""
