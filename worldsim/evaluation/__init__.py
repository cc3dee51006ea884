"""The yardstick: worlds held against their environment's own frames."""

from worldsim.evaluation.faithful import Faithfulness, assert_faithful

__all__ = ["Faithfulness", "assert_faithful"]
