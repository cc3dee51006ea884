"""Recorded data: episodes, the recorder, datasets on disk, clips for training."""
