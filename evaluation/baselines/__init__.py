"""The paper's baselines, as samplers of models that are trained by the same program on the same tokens."""

from evaluation.baselines.masked_view import MaskedViewSampler
from evaluation.baselines.sliding_window import SlidingWindowSampler

__all__ = ["MaskedViewSampler", "SlidingWindowSampler"]
