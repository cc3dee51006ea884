"""``python -m benchmarks.units``: prediction units, cube sizes, scorers and endless roll-outs ([Units])."""
