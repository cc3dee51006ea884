"""The generator: a frame-wise causal transformer over latents."""
