"""From a tokenizer's config to the tokenizer."""

from __future__ import annotations

from worldsim.tokenizer.frame import FrameConfig, FrameTokenizer
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer

TokenizerConfig = HistoryConfig | FrameConfig


def build_tokenizer(config: TokenizerConfig) -> HistoryTokenizer | FrameTokenizer:
    """The tokenizer that ``config`` describes, with fresh weights."""
    return HistoryTokenizer(config) if isinstance(config, HistoryConfig) else FrameTokenizer(config)
