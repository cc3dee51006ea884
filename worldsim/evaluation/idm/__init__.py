"""The inverse dynamics model: predicts actions and ego-motion from frames."""
