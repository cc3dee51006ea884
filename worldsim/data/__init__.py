"""Recorded worlds: episodes, the recorder, the dataset on disk, clips for training."""
