"""Throughput and latency of a world on this machine, and its share of the roofline."""
