"""Baselines: convolutional recurrent networks trained on the same data."""
