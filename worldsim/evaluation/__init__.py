"""Evaluation of worlds against frames of their source."""

from worldsim.evaluation.faithful import Faithfulness, assert_faithful

__all__ = ["Faithfulness", "assert_faithful"]
