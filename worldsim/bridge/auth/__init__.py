"""Authentication by CURVE keys, and rate limits."""
