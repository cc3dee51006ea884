"""Two-stage training of a generator: causal fine-tuning, then distribution matching ([Units])."""
