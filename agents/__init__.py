"""Those who act in a world: people (``human``), scripts, chance."""
