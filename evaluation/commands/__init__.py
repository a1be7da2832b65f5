"""The commands of ``python -m evaluation``: one module each, nothing heavy on import."""
