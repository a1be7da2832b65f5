"""Texts as token states: frozen encoders, one file each, and a bank that encodes every caption once."""

from nuwa_lightning.text.base import TextEncoder
from nuwa_lightning.text.hugging_face import ClipTextEncoder, HuggingFaceTextEncoder
from nuwa_lightning.text.minilm import MiniLMTextEncoder

__all__ = ["ClipTextEncoder", "HuggingFaceTextEncoder", "MiniLMTextEncoder", "TextEncoder"]
