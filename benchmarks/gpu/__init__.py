"""Minutes of one GPU, spent without anybody looking: tests, timings, data, a trained world."""
