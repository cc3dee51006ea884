"""The yardstick: worlds held against their environment's own frames, and the bench."""
