"""From noise to frames."""
