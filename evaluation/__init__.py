"""Scores folders of pictures, never models. Not part of the wheel."""
