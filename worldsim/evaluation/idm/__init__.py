"""The inverse dynamics model: reads actions and ego-motion from frames."""
