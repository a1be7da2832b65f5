"""NUWA-Infinity in PyTorch Lightning: autoregressive over autoregressive generation of images of any size."""

from __future__ import annotations

__version__ = "0.1.0"
